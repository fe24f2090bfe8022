"""Arrays of a file of numpy as a data set."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from wnrl.data.images import PARTS, Images
from wnrl.errors import UsageError

WORDS = {"train": "train", "valid": "valid", "val": "valid", "test": "test"}
PART_OF = WORDS | {f"x_{word}": part for word, part in WORDS.items()}
"""From what an array may be called to the part that it is; those with an x are Keras's words."""


def load(path: Path) -> Images:
    """Return the images of an ``.npz`` file.

    Its arrays ``train``, ``valid`` (or ``val``) and ``test`` are the three parts; ``x_train`` and
    so on, as Keras calls them, will do, and there may be no other images. Without ``valid``, the
    last tenth of ``train`` is for validation. A single array is split by its rows: of ten, the
    ninth is for validation, the tenth for testing. Values are uint8, or truth values, which are two
    levels; a number ``levels`` in the file says that there are fewer levels than 256.

    Raises:
        UsageError: there is no such file, it is damaged, or its arrays are no images.
    """
    try:
        return _loaded(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise UsageError(f"dataset 'npz:{path}': no file {path.absolute()}") from error


@lru_cache(maxsize=1)  # a configuration looks at it several times before it is trained on
def _loaded(path: Path, changed: int) -> Images:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
            arrays = {name: saved[name] for name in saved if not name.startswith("y_")}
    except Exception as error:  # zipfile, zlib, numpy: each has its own
        raise UsageError(f"{path} is damaged or no .npz file of arrays") from error
    levels = arrays.pop("levels", np.array(256))
    if levels.shape or levels.dtype.kind not in "ui" or not 2 <= levels <= 256:
        raise UsageError(f"{path} must have levels from 2 to 256, one number, got {levels!r}")
    parts = {PART_OF[name]: array for name, array in arrays.items() if name in PART_OF}
    images = [name for name, array in arrays.items() if name in PART_OF or array.ndim > 2]
    if not parts and len(arrays) == 1:
        rows = np.atleast_1d(*arrays.values())
        place = np.arange(len(rows)) % 10
        parts = {"train": rows[place < 8], "valid": rows[place == 8], "test": rows[place == 9]}
        rule = "by row: of ten the ninth / the tenth for validation / testing"
    elif parts.keys() >= {"train", "test"} and len(parts) == len(images):
        rule = "as in the file"
        if "valid" not in parts:
            n = len(parts["train"]) - len(parts["train"]) // 10
            parts["train"], parts["valid"] = parts["train"][:n], parts["train"][n:]
            rule += ", the last tenth of train for validation"
    else:
        raise UsageError(
            f"{path} must have arrays train, test and perhaps valid, each once and no other "
            f"images, or a single array, got {', '.join(arrays) or 'none'}"
        )
    train, valid, test = (_pixels(path, name, parts[name]) for name in PARTS)
    if parts["train"].dtype == np.bool_:
        levels = np.array(2)
    elif levels == 256 and train.max() == 1:
        raise UsageError(f"{path} has zeros and ones alone: say so with an array levels=2")
    split = f"{len(train)} / {len(valid)} / {len(test)} images, {rule}"
    return Images(f"npz:{path}", train, valid, test, int(levels), split)


def _pixels(path: Path, name: str, values: np.ndarray) -> torch.Tensor:
    """Return an array as grey levels, ``(N, C, height, width)``."""
    if values.ndim == 3:
        values = values[:, None]
    if values.ndim != 4 or not values.size:
        raise UsageError(
            f"{path} must have images (N, C, height, width) or (N, height, width) for {name!r}, "
            f"got an array {values.shape}"
        )
    if values.dtype not in (np.uint8, np.bool_):
        raise UsageError(
            f"{path} must have uint8, whole numbers from 0 to 255, for {name!r}, got "
            f"{values.dtype}; of x from 0 to 1 they are (255 * x).round().astype('uint8')"
        )
    return torch.from_numpy(np.ascontiguousarray(values, np.uint8))
