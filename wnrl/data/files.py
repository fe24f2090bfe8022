"""Files of data sets: looked for, downloaded where they are nowhere, and read if they are right.

A set of images is right if its pixels are, whatever file they come in: as published, unpacked,
packed again, or as other libraries keep it. Where only the checksum of the published file is known,
as of Fashion-MNIST and CIFAR-10, it must be that file.
"""

import gzip
import hashlib
import io
import os
import struct
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wnrl.errors import UsageError, extra, first_line
from wnrl.runs import locked, write_bytes

IDX_OF_BYTES = 8
GZIPPED = b"\x1f\x8b"
CIFAR10_PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class File:
    """One published file, or what else may hold the same images."""

    name: str
    """How it is called where it was published."""
    checksum: str
    """``sha256:…`` of its pixels in order, or ``md5:…`` of the file as it was published."""
    url: str
    """Where it can be had."""
    others: tuple[str, ...] = ()
    """Other names for the same images: ``name.npz:key`` is an array of an archive of numpy."""

    @property
    def as_published(self) -> bool:
        """Whether the checksum is of the published file, so that no other one can be taken."""
        return self.checksum.startswith("md5:")

    @property
    def names(self) -> tuple[str, ...]:
        """Return all names, with the unpacked file's where its pixels have the checksum."""
        packed = self.name.endswith(".gz") and not self.as_published
        unpacked = (self.name.removesuffix(".gz"),) if packed else ()
        return (self.name, *unpacked, *self.others)


def cache_folder() -> Path:
    """Return the user's own folder for data: below XDG_CACHE_HOME, or in ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wnrl"


def fetch(dataset: str, file: File, data_dir: Path | None) -> Tensor:
    """Return the images of a file, which is downloaded into the user's cache if it is nowhere.

    Args:
        dataset: the set's name, and the folder that the file may be in.
        file: what is wanted.
        data_dir: looked into first; None where none was given.

    Returns:
        uint8; of the published file's shape, and with its checksum.

    Raises:
        UsageError: it is damaged or another file, or is nowhere and could not be downloaded; the
            message says where it was looked for and where it belongs.
    """
    damaged = None
    for path, key in candidates(dataset, file, data_dir):
        try:
            return _checked(path, key, file)
        except UsageError as error:  # perhaps it is another set's, and the right one is elsewhere
            damaged = damaged or error
    if damaged is not None:
        raise damaged
    return _downloaded(dataset, file, data_dir)


def candidates(
    dataset: str, file: File, data_dir: Path | None = None
) -> Iterator[tuple[Path, str]]:
    """Yield the files with one of the names in a usual folder, and the key of an array in it.

    Subfolders (``mnist-static``, ``mnist_static``, torchvision's ``MNIST/raw``) come first: MNIST's
    files and Fashion-MNIST's have the same names.
    """
    torchvision = {"mnist": "MNIST/raw", "fashion-mnist": "FashionMNIST/raw"}.get(dataset, "")
    subfolders = (dataset, dataset.replace("-", "_"), torchvision, "raw", "")
    for folder in folders(data_dir):
        for below in dict.fromkeys(subfolders):
            for name in file.names:
                base, _, key = name.partition(":")
                if (path := folder / below / base).is_file():
                    yield path, key


def folders(data_dir: Path | None) -> list[Path]:
    """Return where files are looked for: ``data_dir``, WNRL_DATA, the user's cache.

    Raises:
        UsageError: WNRL_DATA is no folder.
    """
    named = os.environ.get("WNRL_DATA")
    if named and not Path(named).is_dir():
        raise UsageError(f"WNRL_DATA must be a folder that is there, got {named!r}")
    return [Path(folder) for folder in (data_dir, named, cache_folder()) if folder]


def _checked(path: Path, key: str, file: File, raw: bytes | None = None) -> Tensor:
    """Return what a file holds, or will hold if its bytes are given.

    Raises:
        UsageError: it is not what was published.
    """
    kind, _, wanted = file.checksum.partition(":")
    try:
        raw = path.read_bytes() if raw is None else raw
        # What was published is looked at before it is unpacked, where that is what is known of it.
        if kind == "md5" and hashlib.md5(raw).hexdigest() != wanted:
            raise ValueError(f"its md5 is not {wanted}, the published file's")
        pixels = _decoded(path, raw, key)
        if kind == "sha256" and hashlib.sha256(pixels.tobytes()).hexdigest() != wanted:
            raise ValueError(f"the sha256 of its pixels is not {wanted}")
    except Exception as error:  # gzip, zipfile, zlib, struct, numpy: each has its own
        raise UsageError(
            f"{path} is damaged or another file: {first_line(error)}; put the one from {file.url} "
            "in its place"
        ) from error
    return torch.from_numpy(pixels.copy())


def _decoded(path: Path, raw: bytes, key: str) -> np.ndarray:
    """Return the images of a file as uint8."""
    if path.suffix == ".npz":
        with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
            return np.ascontiguousarray(arrays[key])
    if path.suffix == ".amat":  # a line of 784 zeros and ones an image
        return (np.frombuffer(raw, np.uint8)[::2] - ord("0")).reshape(-1, 28, 28)
    if path.name.endswith(".tar.gz"):
        return _read_cifar(raw)
    return read_idx(gzip.decompress(raw) if raw.startswith(GZIPPED) else raw)


def _read_cifar(raw: bytes) -> np.ndarray:
    """Return the images of CIFAR-10's binary version, its five training batches first."""
    names = (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch")
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        members = [archive.extractfile(f"cifar-10-batches-bin/{name}.bin") for name in names]
        batches = [np.frombuffer(member.read(), np.uint8) for member in members if member]
    rows = np.concatenate(batches).reshape(-1, 1 + CIFAR10_PIXELS)  # a label first
    return rows[:, 1:].reshape(-1, 3, 32, 32)


def read_idx(raw: bytes) -> np.ndarray:
    """Return the bytes of an idx file as an array of the shape that the file states.

    Raises:
        ValueError: it is none, or its values are no bytes.
    """
    # Two zeros, the type, the number of axes; then each axis, big-endian.
    zeros, kind, n_axes = struct.unpack(">HBB", raw[:4])
    if zeros or kind != IDX_OF_BYTES:
        raise ValueError("no idx file of bytes")
    shape = struct.unpack(f">{n_axes}I", raw[4 : 4 + 4 * n_axes])
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * n_axes).reshape(shape)


def _downloaded(dataset: str, file: File, data_dir: Path | None) -> Tensor:
    """Download a file into the user's cache, with a progress bar on stderr, and return its images.

    Raises:
        UsageError: it cannot be downloaded, or is another one; then it is not kept.
    """
    looked = ", ".join(map(str, folders(data_dir)))
    needed = file.name + " as it was published" * file.as_published
    missing = f"dataset {dataset!r} needs {needed}, which is not in {looked} (or {dataset}/ below)"
    put = "put it there, or say where it is with data_dir or WNRL_DATA"
    with extra("lab", f"{missing}; get it from {file.url} and {put}; downloading it"):
        from pooch import HTTPDownloader  # type: ignore[import-untyped]
    path, came = cache_folder() / dataset / file.name, io.BytesIO()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        HTTPDownloader(progressbar=True, timeout=30)(file.url, came, None)
        images = _checked(path, "", file, came.getvalue())
        with locked(path.parent, seconds=-1):
            write_bytes(path, lambda out: out.write(came.getbuffer()))
    except (OSError, UsageError) as error:  # no network or disk; another file came
        reason = "another file came" if isinstance(error, UsageError) else type(error).__name__
        raise UsageError(
            f"{missing} and could not be downloaded ({reason}); get it from {file.url} and {put}"
        ) from error
    return images
