"""Pictures in a folder as a data set, with a split that stays as pictures are added."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wnrl.data.images import PARTS, Images
from wnrl.errors import UsageError

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
SYNONYMS = {"training": "train", "val": "valid", "validation": "valid", "testing": "test"}
"""From other names of subfolders, in lower case, to the parts that they are."""
GREY = ("1", "L", "LA")
WIDE = ("I", "F")
"""Modes of PIL without colour, and those with more than 8 bits."""
LEVELS = 256


def look(folder: Path) -> tuple[int, int, int]:
    """Return the shape of the pictures in a folder, that of the first one.

    Raises:
        UsageError: there is no such folder, or no picture in it, or the first one is damaged.
    """
    with _opened(_found(folder)[0]) as picture:
        return 1 if picture.mode in GREY else 3, picture.height, picture.width


def load(folder: Path) -> Images:
    """Return all pictures in a folder, in the order of their paths.

    Subfolders that are called as the parts, or as ``SYNONYMS`` says, are the three parts. Else the
    path of a picture below the folder decides, whatever other pictures there are: its SHA-256's
    first byte modulo ten is 0 for testing, 1 for validation, 2 to 9 for training. Where there are
    ``train`` and ``test`` alone, those of ``train`` with a 1 are for validation.

    Raises:
        UsageError: as ``look``; or pictures differ in size, one has colour where the first has
            none, one is damaged, or a part has none.
    """
    paths, shape = _found(folder), look(folder)
    names = [path.relative_to(folder) for path in paths]
    tops = {_top(name) for name in names if len(name.parts) > 1}
    in_folders = tops >= {"train", "test"}
    parts: dict[str, list[Tensor]] = {name: [] for name in PARTS}
    for path, name in zip(paths, names, strict=True):
        place = hashlib.sha256(name.as_posix().encode()).digest()[0] % 10
        part = {0: "test", 1: "valid"}.get(place, "train")
        if in_folders and not (_top(name) == "train" and part == "valid" and "valid" not in tops):
            part = _top(name)
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


def _top(name: Path) -> str:
    """Return what the first folder of a path says."""
    top = name.parts[0].lower()
    return SYNONYMS.get(top, top)


def _found(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UsageError(f"dataset 'folder:{folder}' is not there: no folder {folder.absolute()}")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
    # Systems keep hidden files of their own.
    paths = [p for p in paths if not any(q.startswith(".") for q in p.relative_to(folder).parts)]
    if not paths:
        raise UsageError(f"folder {folder} has no pictures ({', '.join(ENDINGS)})")
    return paths


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
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
