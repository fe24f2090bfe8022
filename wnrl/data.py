"""Image data sets: one table, fixed splits, uint8 tensors that fit on the training device whole."""

import gzip
import hashlib
import math
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wnrl.errors import UsageError, check_choice

DIGITS_STRIDE = 1111
MNIST_FILES = {
    "train-images-idx3-ubyte.gz": (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
    ),
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
}
MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"


@dataclass(frozen=True)
class Images:
    """A data set in memory.

    Attributes:
        name: its key in ``DATASETS``.
        train: grey levels 0 … levels − 1, uint8, ``(N, C, height, width)``.
        valid: the same for choosing anything at all.
        test: the same for what is reported.
        levels: number of grey levels of a pixel.
        split: how the three parts were made, in words.
    """

    name: str
    train: Tensor
    valid: Tensor
    test: Tensor
    levels: int
    split: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """One image: channels, height, width."""
        channels, height, width = self.train.shape[1:]
        return channels, height, width

    def part(self, name: str) -> Tensor:
        """``train``, ``valid`` or ``test`` by its name.

        Raises:
            UsageError: ``name`` is another word.
        """
        parts = {"train": self.train, "valid": self.valid, "test": self.test}
        return parts[check_choice("split", name, parts)]


@dataclass(frozen=True)
class Dataset:
    """What is known of a data set without reading it, and how to read it."""

    shape: tuple[int, int, int]
    """Channels, height, width of an image."""
    read: Callable[[Path | None], Images]
    """From the folder with the files (None: the usual places) to the images."""


def load(name: str, data_dir: str | Path | None = None) -> Images:
    """Reads a data set.

    Args:
        name: a key of ``DATASETS``.
        data_dir: the folder with the files, for sets that are not embedded in a package.

    Raises:
        UsageError: there is no such data set.
    """
    check_choice("dataset", name, DATASETS)
    return DATASETS[name].read(Path(data_dir) if data_dir is not None else None)


def load_digits(data_dir: Path | None = None) -> Images:
    """The 1797 digits of 8 × 8 pixels and 17 grey levels that scikit-learn carries.

    They come ordered by writer (13 of them), so that the last rows are other hands than the first:
    a split in file order would measure new writers on a handful of them. Here row 1111 · i mod 1797
    stands at place i (a step near the golden section, coprime with 1797), and the first 1297
    places are for training, the next 200 for validation, the last 300 for testing. Every part
    holds every writer and every digit in the same shares, and no random generator is involved.

    Args:
        data_dir: unused; the set is embedded in the package.
    """
    from sklearn.datasets import load_digits as embedded

    pixels = torch.from_numpy(embedded().images).to(torch.uint8).unsqueeze(1)
    n = len(pixels)
    assert math.gcd(DIGITS_STRIDE, n) == 1
    shuffled = pixels[torch.arange(n) * DIGITS_STRIDE % n]
    train, valid, test = shuffled.split([1297, 200, 300])
    split = "1297 / 200 / 300 rows, taken in the order 1111 i mod 1797"
    return Images("digits", train, valid, test, levels=17, split=split)


def load_mnist(data_dir: Path | None = None) -> Images:
    """MNIST, 28 × 28, 256 grey levels, with the split of Burda et al. (2016, arXiv:1509.00519).

    Args:
        data_dir: where ``train-images-idx3-ubyte.gz`` and ``t10k-images-idx3-ubyte.gz`` are.

    Raises:
        UsageError: a file is nowhere, or is not the published one.
    """
    everything, test = (
        read_idx(find_file("mnist", name, data_dir, MNIST_URL), sha256).unsqueeze(1)
        for name, sha256 in MNIST_FILES.items()
    )
    n = len(everything) - 400
    split = f"the first {n} training images / the last 400 / the {len(test)} test images"
    return Images("mnist", everything[:n], everything[n:], test, levels=256, split=split)


def find_file(dataset: str, name: str, data_dir: Path | None, url: str) -> Path:
    """The file ``name`` or ``<dataset>/<name>`` in ``data_dir``, WNRL_DATA or the user's cache.

    Args:
        dataset: a key of ``DATASETS``.
        name: of the file.
        data_dir: looked into first; None where none was given.
        url: where the file can be had, for the error.

    Raises:
        UsageError: it is in none of them; the message says where it was looked for.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wnrl"
    folders = [cache]
    if "WNRL_DATA" in os.environ:
        folders.insert(0, Path(os.environ["WNRL_DATA"]))
    if data_dir is not None:
        folders.insert(0, data_dir)
    for folder in folders:
        for path in (folder / name, folder / dataset / name):
            if path.is_file():
                return path
    looked = ", ".join(map(str, folders))
    raise UsageError(
        f"dataset {dataset!r} needs {name}, which is not in {looked}; get it from {url} "
        "and put it there, or say where it is with data_dir or WNRL_DATA"
    )


def read_idx(path: Path, sha256: str) -> Tensor:
    """Reads a gzipped idx file of bytes, whose content is known beforehand.

    Args:
        path: the file.
        sha256: of the file as it is, compressed.

    Returns:
        uint8, with the shape that the file states.

    Raises:
        UsageError: the file is another one, truncated or corrupted; nothing of it was used.
    """
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UsageError(f"{path} is damaged or another file: its sha256 is not {sha256}")
    raw = gzip.decompress(content)
    # Two zeros, the type (8: unsigned bytes), the number of axes; then each axis, big-endian.
    _, kind, n_axes = struct.unpack(">HBB", raw[:4])
    assert kind == 8
    shape = struct.unpack(f">{n_axes}I", raw[4 : 4 + 4 * n_axes])
    pixels = np.frombuffer(raw, np.uint8, offset=4 + 4 * n_axes).reshape(shape)
    return torch.from_numpy(pixels.copy())


DATASETS: dict[str, Dataset] = {
    "digits": Dataset((1, 8, 8), load_digits),
    "mnist": Dataset((1, 28, 28), load_mnist),
}
