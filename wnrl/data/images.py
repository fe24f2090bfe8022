"""A data set in memory: three parts of uint8 pixels, small enough for the training device."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from wnrl.errors import UsageError, check_choice

PARTS = ("train", "valid", "test")
MOST_CHANNELS = 4  # of pictures: grey, grey with opacity, colour, colour with opacity


def check_channels_first(name: str, shape: Sequence[int]) -> None:
    """Raise UsageError for images, ``(..., C, height, width)``, with C at the end or before it."""
    channels, height, width = shape[-3:]
    if min(height, width) <= MOST_CHANNELS < channels:
        raise UsageError(
            f"{name} must have channels in front of height and width, got {tuple(shape)}; "
            "permute(0, 3, 1, 2) of images as a tensor, transpose of an array, puts them there, or "
            "(3, 2, 0, 1) where the last axis counts the images"
        )


@dataclass(frozen=True)
class Images:
    """A data set in memory.

    Attributes:
        name: what ``wnrl.data.load`` was asked for.
        train: grey levels 0 … levels − 1, uint8, ``(N, C, height, width)``.
        valid: the same for choosing anything at all.
        test: the same for what is reported.
        levels: number of grey levels of a pixel; 2 for sets that are binary as published.
        split: how the three parts were made, in words.

    Raises:
        UsageError: a part is of another type or of other images, has its channels behind the
            height, or has values that are no levels.
    """

    name: str
    train: Tensor
    valid: Tensor
    test: Tensor
    levels: int
    split: str

    def __post_init__(self) -> None:
        for name in PARTS:
            part: Tensor = getattr(self, name)
            fits = part.dim() == 4 and part.shape[1:] == self.train.shape[1:]
            if part.dtype != torch.uint8 or not fits:
                raise UsageError(
                    f"{name} must be grey levels, uint8, of shape (N, C, height, width) with the "
                    f"C, height and width of train, got {part.dtype} of {tuple(part.shape)}"
                )
            check_channels_first(name, part.shape)
            largest = int(part.max()) if part.numel() else 0
            if largest >= self.levels:
                raise UsageError(
                    f"{name} must be grey levels from 0 to levels - 1 = {self.levels - 1}, "
                    f"got {largest}"
                )

    @property
    def shape(self) -> tuple[int, int, int]:
        """One image: channels, height, width."""
        channels, height, width = self.train.shape[1:]
        return channels, height, width

    @cached_property
    def pixel_means(self) -> Tensor:
        """Means of the training set in [0, 1], ``(C, height, width)``.

        Raises:
            UsageError: it has no images.
        """
        total = self.part("train").sum(0, dtype=torch.int64)
        return total / (len(self.train) * (self.levels - 1))

    @cached_property
    def crc32(self) -> str:
        """Checksum of all parts and their sizes, by which a run that goes on knows them."""
        crc = 0
        for part in (self.train, self.valid, self.test):
            crc = zlib.crc32(b"%d" % len(part), crc)
            crc = zlib.crc32(part.cpu().contiguous().numpy().data, crc)
        return f"{crc:08x}"

    def part(self, name: str) -> Tensor:
        """``train``, ``valid`` or ``test`` by its name.

        Raises:
            UsageError: ``name`` is another word, or the part has no images.
        """
        part: Tensor = getattr(self, check_choice("split", name, PARTS))
        if not len(part):
            raise UsageError(f"split {name!r} of dataset {self.name!r} has no images")
        return part
