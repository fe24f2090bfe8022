"""Image data sets: one table, published splits, checksums, uint8 that fits on a device whole."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wnrl.arguments import guard
from wnrl.data import frames, own, sets
from wnrl.data.images import Images
from wnrl.errors import UsageError, as_usage_error, check_choice, in_words

__all__ = ["DATASETS", "Dataset", "Images", "dataset", "load"]

FRAMES, FOLDER, NPZ = "frames:", "folder:", "npz:"


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
    "fashion-mnist": Dataset((1, 28, 28), 256, sets.load_fashion_mnist),
    "cifar10": Dataset((3, 32, 32), 256, sets.load_cifar10),
}
"""Data sets by name; ``FORMS`` are the others."""


FORMS = {
    f"{FRAMES}<env id>": "3 × 64 × 64, 256 levels: what an agent that acts at random sees",
    f"{FOLDER}<path>": "pictures in a folder, grey or in colour, of one size",
    f"{NPZ}<path>": "arrays of a file of numpy, uint8, (N, C, height, width) or (N, height, width)",
}
"""Names of data sets that are no rows, with what they mean."""


def dataset(name: str) -> Dataset:
    """Return what is known of a data set.

    Args:
        name: a key of ``DATASETS``, or in one of the ``FORMS``. A path is looked for in the current
            folder.

    Raises:
        UsageError: there is no such data set.
    """
    form, _, rest = name.partition(":")
    if rest and f"{form}:" == FRAMES:
        return Dataset((3, frames.SIDE, frames.SIDE), 256, partial(frames.load_frames, rest))
    if rest and f"{form}:" == FOLDER:
        return Dataset(own.look_at_pictures(rest), own.LEVELS, partial(own.load_pictures, rest))
    if rest and f"{form}:" == NPZ:
        images = own.look_at_arrays(rest)
        return Dataset(images.shape, images.levels, partial(own.load_arrays, rest))
    return DATASETS[check_choice("dataset", name, [*DATASETS, *FORMS])]


def load(name: str, data_dir: str | Path | None = None) -> Images:
    """Read a data set.

    Args:
        name: as for ``dataset``.
        data_dir: the folder with the files of published sets; else they are looked for in WNRL_DATA
            and the user's cache, and downloaded into the latter.

    Raises:
        UsageError: there is no such data set, or its files cannot be had, or are damaged; or
            ``data_dir`` is no folder, or what was read is not what the table says.
    """
    known = dataset(name)
    folder = None if data_dir is None else Path(data_dir)
    if folder is not None and not folder.is_dir():
        raise UsageError(f"data_dir must be a folder that is there, got {str(folder)!r}")
    kinds = LookupError, TypeError, AttributeError, RuntimeError, ArithmeticError
    with as_usage_error(f"dataset {name!r} cannot be read", *kinds, say=in_words):  # others' code
        images = known.read(folder)
        came = images.name, images.shape, images.levels
    told = name, known.shape, known.levels
    if came != told:
        raise UsageError(
            f"dataset {name!r} must be read as name, shape and levels {told}, got {came}"
        )
    return images


guard(globals(), __all__)
