"""Data sets of one's own: pictures in a folder, arrays in a file of numpy."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wnrl.data.images import PARTS, Images
from wnrl.errors import UsageError

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
SYNONYMS = {"training": "train", "val": "valid", "validation": "valid", "testing": "test"}
"""From other names of subfolders and arrays to the parts that they are."""
GREY = ("1", "L", "LA")
WIDE = ("I", "F")
"""Modes of PIL without colour, and those with more than 8 bits."""
LEVELS = 256


def look_at_pictures(folder: str) -> tuple[int, int, int]:
    """Return the shape of the pictures in a folder, that of the first one.

    Raises:
        UsageError: there is no such folder, or no picture in it, or the first one is damaged.
    """
    with _opened(_picture_paths(folder)[0]) as picture:
        return 1 if picture.mode in GREY else 3, picture.height, picture.width


def load_pictures(folder: str, data_dir: Path | None = None) -> Images:
    """Return all pictures in a folder, in the order of their paths.

    Subfolders that are called as the parts, or as ``SYNONYMS`` says, are the three parts. Else the
    path of a picture below the folder decides, whatever other pictures there are: its SHA-256's
    first byte modulo ten is 0 for testing, 1 for validation, 2 to 9 for training. Where there are
    ``train`` and ``test`` alone, those of ``train`` with a 1 are for validation.

    Args:
        folder: where they are.
        data_dir: unused; the path says all.

    Raises:
        UsageError: as ``look_at_pictures``; or there are pictures for validation or testing and no
            ``train`` and ``test``, pictures differ in size, one has colour where the first has
            none, one is damaged, or a part has none.
    """
    paths, shape = _picture_paths(folder), look_at_pictures(folder)
    names = [path.relative_to(folder) for path in paths]
    tops = {_part_of(name.parts[0].lower()) for name in names if len(name.parts) > 1}
    in_folders = tops >= {"train", "test"}
    if not in_folders and tops & {"valid", "test"}:  # which would be trained on
        raise UsageError(
            f"folder {folder} must have train and test, and perhaps valid, as subfolders, got "
            f"{' and '.join(p for p in PARTS if p in tops)} alone; name one of these to split its "
            "pictures by their paths"
        )
    parts: dict[str, list[Tensor]] = {name: [] for name in PARTS}
    for path, name in zip(paths, names, strict=True):
        place = hashlib.sha256(os.fsencode(name.as_posix())).digest()[0] % 10
        part, top = {0: "test", 1: "valid"}.get(place, "train"), _part_of(name.parts[0].lower())
        if in_folders and not (top == "train" and part == "valid" and "valid" not in tops):
            part = top
        if part not in parts:
            told = "is in none of the folders train, valid and test, which are there"
            raise UsageError(f"{path} {told}")
        parts[part].append(_pixels(path, shape, paths[0]))
    for part, pictures in parts.items():
        if not pictures:
            raise UsageError(
                f"folder {folder} has no picture for {part!r}: give it subfolders train, valid and "
                f"test, got {len(paths)} pictures whose paths decide"
            )
    rule = "by their folders" if in_folders else "by the SHA-256 of their paths"
    sizes = " / ".join(str(len(pictures)) for pictures in parts.values())
    train, valid, test = (torch.stack(pictures) for pictures in parts.values())
    return Images(f"folder:{folder}", train, valid, test, LEVELS, f"{sizes} pictures, {rule}")


def _part_of(name: str) -> str:
    """Return the part that a folder or an array of this name is, or else the name."""
    return SYNONYMS.get(name, name)


def _picture_paths(folder: str) -> list[Path]:
    if not (path := Path(folder)).is_dir():
        raise UsageError(f"dataset 'folder:{folder}' is not there: no folder {path.absolute()}")
    paths = []
    for at, folders, names in os.walk(folder, followlinks=True):
        above = {os.path.realpath(each) for each in (Path(at), *Path(at).parents)}
        folders[:] = [name for name in folders if os.path.realpath(Path(at, name)) not in above]
        paths += [Path(at, name) for name in names if Path(name).suffix.lower() in ENDINGS]
    paths.sort()
    # Systems keep hidden files of their own.
    paths = [p for p in paths if not any(q.startswith(".") for q in p.relative_to(folder).parts)]
    if not paths:
        raise UsageError(f"folder {folder} has no pictures ({', '.join(ENDINGS)})")
    return paths


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    if not path.is_file():
        raise UsageError(f"{path} is no file, or not there")
    try:
        with Image.open(path) as picture:
            yield picture
    except (OSError, Image.DecompressionBombError) as error:
        raise UsageError(f"{path} is damaged or no picture") from error


def _pixels(path: Path, shape: tuple[int, int, int], first: Path) -> Tensor:
    """Return a picture as uint8, ``(C, height, width)``."""
    channels, height, width = shape
    with _opened(path) as picture:
        if picture.size != (width, height):
            raise UsageError(
                f"pictures must have one size: {first} is {width} × {height}, "
                f"{path} is {picture.width} × {picture.height}; resize them"
            )
        if picture.mode.startswith(WIDE):
            raise UsageError(f"{path} must have 8 bits a colour, got PIL's mode {picture.mode!r}")
        if channels == 1 and picture.mode not in GREY:
            raise UsageError(f"{path} has colour, which {first} has not: make them alike")
        pixels = np.array(picture.convert("L" if channels == 1 else "RGB"))
    return torch.from_numpy(pixels).reshape(height, width, channels).permute(2, 0, 1).contiguous()


def look_at_arrays(path: str) -> Images:
    """Return the images of an ``.npz`` file, the same object at each call.

    Raises:
        UsageError: as ``load_arrays``.
    """
    try:
        return _read_arrays(path, Path(path).stat().st_mtime_ns)
    except OSError as error:
        raise UsageError(f"dataset 'npz:{path}': no file {Path(path).absolute()}") from error


def load_arrays(path: str, data_dir: Path | None = None) -> Images:
    """Return the images of an ``.npz`` file, which nobody else has.

    Its arrays ``train``, ``valid`` (or ``val``) and ``test`` are the three parts; ``x_train`` and
    so on, as Keras calls them, will do, and there may be no other images. Without ``valid``, the
    last tenth of ``train`` is for validation. A single array is split by its rows: of ten, the
    ninth is for validation, the tenth for testing. Values are uint8, or truth values, which are two
    levels; a number ``levels`` in the file says that there are fewer levels than 256.

    Args:
        path: of the file.
        data_dir: unused; the path says all.

    Raises:
        UsageError: there is no such file, it is damaged, or its arrays are no images, or may have
            their number last: three axes of which the first two alone are alike.
    """
    return deepcopy(look_at_arrays(path))


@lru_cache(maxsize=1)  # a configuration looks at it several times before it is trained on
def _read_arrays(path: str, changed: int) -> Images:
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as saved:
            arrays = {name: saved[name] for name in saved if not name.startswith("y_")}
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise TypeError("numpy gives what is in a zip of other files as bytes")
    except Exception as error:  # zipfile, zlib, numpy: each has its own
        raise UsageError(f"{path} is damaged or no .npz file of arrays") from error
    said = "levels" in arrays
    levels = arrays.pop("levels", np.array(256))
    if levels.shape or levels.dtype.kind not in "ui" or not 2 <= levels <= 256:
        raise UsageError(f"{path} must have levels from 2 to 256, one number, got {levels!r}")
    named = {name: _part_of(name.removeprefix("x_")) for name in arrays}  # Keras has an x there
    parts = {part: arrays[name] for name, part in named.items() if part in PARTS}
    images = [name for name, part in named.items() if part in parts or arrays[name].ndim > 2]
    grey = [array.shape for array in arrays.values() if array.ndim == 3]
    if grey and all(a == b != c for a, b, c in grey):
        a, b, c = grey[0]
        raise UsageError(
            f"{path} has {a} images of {b} × {c} or {c} of {a} × {b}: write (N, 1, height, width), "
            f"which transpose(2, 0, 1)[:, None] makes of the latter, got an array {grey[0]}"
        )
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
    train, valid, test = (_levels_of(path, name, parts[name]) for name in PARTS)
    if len({parts[name].dtype for name in PARTS}) > 1:
        raise UsageError(f"{path} must have uint8 in all parts, or truth values in all")
    if parts["train"].dtype == np.bool_ and not said:
        levels = np.array(2)
    elif levels == 256 and train.max() == 1:
        raise UsageError(f"{path} has zeros and ones alone: say so with an array levels=2")
    split = f"{len(train)} / {len(valid)} / {len(test)} images, {rule}"
    return Images(f"npz:{path}", train, valid, test, int(levels), split)


def _levels_of(path: str, name: str, values: np.ndarray) -> Tensor:
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
