"""Pictures in a folder as a data set, with a split that stays as pictures are added."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wnrl.data.images import PARTS, Images
from wnrl.errors import UsageError

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
SUBFOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "val", "validation"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""From the names of subfolders, in lower case, to the parts that they are."""
GREY = ("1", "L", "LA")
WIDE = ("I", "F")
"""Modes of PIL without colour, and those with more than 8 bits."""
LEVELS = 256


def look(folder: Path) -> tuple[tuple[int, int, int], int]:
    """Return the shape of the pictures in a folder, that of the first one, and their levels.

    Raises:
        UsageError: there is no such folder, or no picture in it, or the first one is damaged.
    """
    with _opened(_found(folder)[0]) as picture:
        return (1 if picture.mode in GREY else 3, picture.height, picture.width), LEVELS


def load(folder: Path) -> Images:
    """Return all pictures in a folder, in the order of their paths.

    Subfolders that are called as ``SUBFOLDERS`` says are the three parts. Else the path of a
    picture below the folder decides, whatever other pictures there are: its SHA-256's first byte
    modulo ten is 0 for testing, 1 for validation, 2 to 9 for training. Where there are ``train``
    and ``test`` alone, those of ``train`` with a 1 are for validation.

    Raises:
        UsageError: as ``look``; or pictures differ in size, one has colour where the first has
            none, one is damaged, or a part has none.
    """
    paths, (shape, _) = _found(folder), look(folder)
    parts: dict[str, list[Tensor]] = {name: [] for name in PARTS}
    names = [path.relative_to(folder).as_posix() for path in paths]
    tops = {SUBFOLDERS.get(_top(name), "") for name in names if "/" in name}
    for path, name in zip(paths, names, strict=True):
        part = _by_folder(path, name, tops) if tops >= {"train", "test"} else _by_path(name)
        parts[part].append(_pixels(path, shape, paths[0]))
    for name, pictures in parts.items():
        if not pictures:
            raise UsageError(
                f"folder {folder} has no picture for {name!r}: give it subfolders train, valid and "
                f"test, got {len(paths)} pictures whose paths decide"
            )
    rule = "by their folders" if tops >= {"train", "test"} else "by the SHA-256 of their paths"
    sizes = " / ".join(str(len(pictures)) for pictures in parts.values())
    train, valid, test = (torch.stack(pictures) for pictures in parts.values())
    return Images(f"folder:{folder}", train, valid, test, LEVELS, f"{sizes} pictures, {rule}")


def _top(name: str) -> str:
    return name.partition("/")[0].lower()


def _by_path(name: str) -> str:
    place = hashlib.sha256(name.encode()).digest()[0] % 10
    return {0: "test", 1: "valid"}.get(place, "train")


def _by_folder(path: Path, name: str, tops: set[str]) -> str:
    part = SUBFOLDERS.get(_top(name))
    if part is None:
        raise UsageError(f"{path} is in none of the folders train, valid and test, which are there")
    if part == "train" and "valid" not in tops and _by_path(name) == "valid":
        return "valid"
    return part


def _found(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UsageError(f"dataset 'folder:{folder}' is not there: no folder {folder.absolute()}")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
    # Systems keep hidden files of their own.
    paths = [p for p in paths if not any(q.startswith(".") for q in p.relative_to(folder).parts)]
    if not paths:
        raise UsageError(f"folder {folder} has no pictures ({', '.join(ENDINGS)})")
    return paths


def _opened(path: Path) -> Image.Image:
    try:
        return Image.open(path)
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
        try:
            pixels = np.array(picture.convert("L" if channels == 1 else "RGB"))
        except OSError as error:
            raise UsageError(f"{path} is damaged: {error}") from error
    return torch.from_numpy(pixels).reshape(height, width, channels).permute(2, 0, 1).contiguous()
