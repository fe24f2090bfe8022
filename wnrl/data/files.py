"""Files of data sets: looked for, downloaded where they are nowhere, and read if they are right."""

import gzip
import hashlib
import logging
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wnrl.errors import UsageError

IDX_OF_BYTES = 8


@dataclass(frozen=True)
class File:
    """One published file."""

    name: str
    """How it is called."""
    checksum: str
    """``sha256:…`` or ``md5:…`` of the file as it is, compressed or not."""
    url: str
    """Where it can be had."""
    downloadable: bool = True
    """Whether ``url`` is the file itself, rather than a page about it."""


def cache_folder() -> Path:
    """The user's own folder for data: below XDG_CACHE_HOME, or in ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wnrl"


def fetch(dataset: str, file: File, data_dir: Path | None) -> Path:
    """Finds a file, or downloads it into the user's cache, and checks it.

    Args:
        dataset: the folder that the file may be in, and the set's name in messages.
        file: what is wanted.
        data_dir: looked into first; None where none was given.

    Returns:
        Where it is; its checksum is right.

    Raises:
        UsageError: it is damaged or another file, or is nowhere and could not be downloaded; the
            message says where it was looked for and where it belongs.
    """
    path = find(dataset, file, data_dir)
    if path is None:
        path = download(dataset, file, data_dir)
    kind, _, wanted = file.checksum.partition(":")
    if digest(path, kind) != wanted:
        raise UsageError(
            f"{path} is damaged or another file: its {kind} is not {wanted}; put the one from "
            f"{file.url} in its place"
        )
    return path


def find(dataset: str, file: File, data_dir: Path | None) -> Path | None:
    """The file in a usual folder, or in its subfolder for the data set; None if in none.

    The subfolder (``mnist-static`` or ``mnist_static``) comes first: MNIST's files and
    Fashion-MNIST's have the same names.
    """
    candidates = (
        folder / below / file.name
        for folder in folders(data_dir)
        for below in (dataset, dataset.replace("-", "_"), "")
    )
    return next((path for path in candidates if path.is_file()), None)


def folders(data_dir: Path | None) -> list[Path]:
    """Where files are looked for: ``data_dir``, WNRL_DATA, the user's cache."""
    named = (data_dir, os.environ.get("WNRL_DATA"), cache_folder())
    return [Path(folder) for folder in named if folder]


def download(dataset: str, file: File, data_dir: Path | None) -> Path:
    """Downloads a file into the user's cache, with a progress bar on stderr.

    Raises:
        UsageError: it cannot be downloaded.
    """
    looked = ", ".join(map(str, folders(data_dir)))
    missing = (
        f"dataset {dataset!r} needs {file.name}, which is not in {looked} (or {dataset}/ below)"
    )
    put = "put it there, or say where it is with data_dir or WNRL_DATA"
    if not file.downloadable:
        raise UsageError(f"{missing}; see {file.url}, and {put}")
    try:
        import pooch  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise UsageError(f"{missing}; get it from {file.url} and {put}") from None
    folder, logger = cache_folder() / dataset, pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.WARNING)  # what it is about to do would be a second story
    try:
        pooch.retrieve(
            file.url,
            known_hash=file.checksum,
            fname=file.name,
            path=folder,
            downloader=pooch.HTTPDownloader(progressbar=True, timeout=30),
        )
    except (OSError, ValueError) as error:  # no network or disk; another file came
        cause = str(error).partition("\n")[0]
        reason = cause if isinstance(error, ValueError) else type(error).__name__
        raise UsageError(
            f"{missing} and could not be downloaded ({reason}); get it from {file.url} and {put}"
        ) from error
    finally:
        logger.setLevel(level)
    return folder / file.name


def digest(path: Path, kind: str) -> str:
    """The checksum of a file.

    Args:
        path: the file.
        kind: an algorithm of hashlib.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def read_idx(path: Path) -> Tensor:
    """Reads a gzipped idx file of bytes, whose checksum was found right.

    Returns:
        uint8, with the shape that the file states.
    """
    raw = gzip.decompress(path.read_bytes())
    # Two zeros, the type, the number of axes; then each axis, big-endian.
    _, kind, n_axes = struct.unpack(">HBB", raw[:4])
    assert kind == IDX_OF_BYTES
    shape = struct.unpack(f">{n_axes}I", raw[4 : 4 + 4 * n_axes])
    pixels = np.frombuffer(raw, np.uint8, offset=4 + 4 * n_axes).reshape(shape)
    return torch.from_numpy(pixels.copy())
