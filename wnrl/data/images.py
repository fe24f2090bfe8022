"""A data set in memory: three parts of uint8 pixels, small enough for the training device."""

from dataclasses import dataclass

from torch import Tensor

from wnrl.errors import check_choice


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
