"""Image data sets: one table, published splits, checksums, uint8 that fits on a device whole."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wnrl.arguments import guard
from wnrl.data import frames, sets
from wnrl.data.images import Images
from wnrl.errors import check_choice

__all__ = ["DATASETS", "Dataset", "Images", "dataset", "load"]

FRAMES = "frames:"


@dataclass(frozen=True)
class Dataset:
    """What is known of a data set without reading it, and how to read it."""

    shape: tuple[int, int, int]
    """Channels, height, width of an image."""
    levels: int
    """Number of grey levels of a pixel."""
    read: Callable[[Path | None], Images]
    """From the folder with the files (None: the usual places) to the images."""


DATASETS: dict[str, Dataset] = {
    "digits": Dataset((1, 8, 8), 17, sets.load_digits),
    "mnist": Dataset((1, 28, 28), 256, sets.load_mnist),
    "mnist-static": Dataset((1, 28, 28), 2, sets.load_mnist_static),
    "omniglot-small": Dataset((1, 28, 28), 2, sets.load_omniglot_small),
    "fashion-mnist": Dataset((1, 28, 28), 256, sets.load_fashion_mnist),
    "cifar10": Dataset((3, 32, 32), 256, sets.load_cifar10),
}
"""Published data sets by name; ``dataset`` knows frames of environments as well."""


FORMS = {f"{FRAMES}<env id>": "3 × 64 × 64, 256 levels: what an agent that acts at random sees"}
"""Names of data sets that are no rows, with what they mean."""


def dataset(name: str) -> Dataset:
    """What is known of a data set.

    Args:
        name: a key of ``DATASETS``, or ``frames:<env id>``.

    Raises:
        UsageError: there is no such data set.
    """
    if name.startswith(FRAMES) and name != FRAMES:
        env_id = name.removeprefix(FRAMES)
        return Dataset((3, frames.SIDE, frames.SIDE), 256, partial(frames.load_frames, env_id))
    return DATASETS[check_choice("dataset", name, [*DATASETS, f"{FRAMES}<env id>"])]


def load(name: str, data_dir: str | Path | None = None) -> Images:
    """Reads a data set.

    Args:
        name: a key of ``DATASETS``, or ``frames:<env id>``.
        data_dir: the folder with the files; else they are looked for in WNRL_DATA and the user's
            cache, and downloaded into the latter.

    Raises:
        UsageError: there is no such data set, or its files cannot be had, or are damaged.
    """
    return dataset(name).read(Path(data_dir) if data_dir is not None else None)


guard(globals(), __all__)
