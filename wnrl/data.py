"""Image data sets: one table, fixed splits, uint8 tensors that fit on the training device whole."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wnrl.errors import check_choice

DIGITS_STRIDE = 1111


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

    meaning: str
    """One line, for help texts and reports."""
    shape: tuple[int, int, int]
    """Channels, height, width of an image."""
    levels: int
    """Number of grey levels of a pixel."""
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


DATASETS: dict[str, Dataset] = {
    "digits": Dataset("handwritten digits, 8 × 8, from scikit-learn", (1, 8, 8), 17, load_digits),
}
