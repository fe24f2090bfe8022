"""Arrays of a file of numpy as a data set."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from wnrl.data.images import PARTS, Images
from wnrl.errors import UsageError

KEYS = {
    "train": ("train", "x_train"),
    "valid": ("valid", "val", "x_valid", "x_val"),
    "test": ("test", "x_test"),
}
"""What an array may be called; those with an x are Keras's words."""


def look(path: Path) -> tuple[tuple[int, int, int], int]:
    """Return the shape of the images in a file, and their levels; raise UsageError as ``load``."""
    images = load(path)
    return images.shape, images.levels


def load(path: Path) -> Images:
    """Return the images of an ``.npz`` file.

    Its arrays ``train``, ``valid`` (or ``val``) and ``test`` are the three parts; ``x_train`` and
    so on, as Keras calls them, will do, and there may be no other images. Without ``valid``, the
    last tenth of ``train`` is for validation. A single array is split by its rows: of ten, the
    ninth is for validation, the tenth for testing. Values are whole numbers from 0 to 255, or
    truth values, which are two levels; a number ``levels`` in the file says that there are fewer
    levels than 256.

    Raises:
        UsageError: there is no such file, it is damaged, or its arrays are no images.
    """
    try:
        return _loaded(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise UsageError(f"dataset 'npz:{path}': no file {path.absolute()}") from error


@lru_cache(maxsize=1)  # a configuration looks at it several times before it is trained on
def _loaded(path: Path, changed: int) -> Images:
    arrays = _read(path)
    levels = _levels(path, arrays.pop("levels", None))
    named = {part: [key for key in keys if key in arrays] for part, keys in KEYS.items()}
    parts = {part: arrays[keys[0]] for part, keys in named.items() if keys}
    if not parts and len(arrays) == 1:
        rows = np.atleast_1d(*arrays.values())
        place = np.arange(len(rows)) % 10
        parts = {"train": rows[place < 8], "valid": rows[place == 8], "test": rows[place == 9]}
        rule = "by row: of ten the ninth / the tenth for validation / testing"
    elif parts.keys() >= {"train", "test"}:
        rule = "as in the file"
        known = {keys[0] for keys in named.values() if keys}
        for name in arrays.keys() - known:
            if arrays[name].ndim > 2:  # no labels
                raise UsageError(f"{path}: {name} is none of train, valid and test; leave it out")
        if "valid" not in parts:
            n = len(parts["train"]) - len(parts["train"]) // 10
            parts["train"], parts["valid"] = parts["train"][:n], parts["train"][n:]
            rule += ", the last tenth of train for validation"
    else:
        names = ", ".join(arrays) or "none"
        raise UsageError(f"{path} must have arrays train and test, or a single one, got {names}")
    train, valid, test = (_pixels(path, name, parts[name]) for name in PARTS)
    if levels is None:
        levels = 2 if parts["train"].dtype == np.bool_ else 256
        if levels == 256 and train.max() == 1:
            raise UsageError(f"{path} has zeros and ones alone: say so with an array levels=2")
    split = f"{len(train)} / {len(valid)} / {len(test)} images, {rule}"
    return Images(f"npz:{path}", train, valid, test, levels, split)


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files if not name.startswith("y_")}
    except Exception as error:  # zipfile, zlib, numpy: each has its own
        raise UsageError(f"{path} is damaged or no .npz file of arrays") from error


def _levels(path: Path, value: np.ndarray | None) -> int | None:
    if value is None:
        return None
    if value.shape != () or value.dtype.kind not in "ui" or not 2 <= value <= 256:
        raise UsageError(f"{path} must have levels from 2 to 256, one number, got {value!r}")
    return int(value)


def _pixels(path: Path, name: str, values: np.ndarray) -> torch.Tensor:
    """Return an array as grey levels, ``(N, C, height, width)``."""
    if values.ndim == 3:
        values = values[:, None]
    if values.ndim != 4 or not values.size:
        raise UsageError(
            f"{path} must have images (N, C, height, width) or (N, height, width) for {name!r}, "
            f"got an array {values.shape}"
        )
    if values.dtype.kind not in "buif":
        raise UsageError(f"{path} must have numbers for {name!r}, got {values.dtype}")
    with np.errstate(invalid="ignore"):  # of NaN, which differs from itself
        whole = values.astype(np.uint8)
    if not np.array_equal(whole, values):
        raise UsageError(
            f"{path} must have whole numbers from 0 to 255 for {name!r}, got {values.dtype} from "
            f"{values.min():g} to {values.max():g}; of x from 0 to 1 they are (255 * x).round()"
        )
    return torch.from_numpy(np.ascontiguousarray(whole))
