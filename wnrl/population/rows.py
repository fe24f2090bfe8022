"""Networks as rows of a matrix: one row holds all parameters of one network, one after the other.

A number keeps torch's layout and a slot torch's name, so that a view of the matrix at a slot is
what a module has under that name, for all members at once. Float and counting buffers, such as
running statistics, go into the rows of a second matrix.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn


class Slot(NamedTuple):
    """The place of one tensor in a row."""

    name: str
    shape: tuple[int, ...]
    start: int

    @property
    def end(self) -> int:
        """The first place behind it."""
        return self.start + prod(self.shape)


@dataclass(frozen=True)
class Rows:
    """Where the tensors of a network stand in a row.

    Args:
        slots: they may overlap nowhere, and may leave gaps, which stay zero.
        width: D, the numbers of a row.
    """

    slots: tuple[Slot, ...]
    width: int

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Return rows for these tensors in their order, without a gap."""
        slots: list[Slot] = []
        for name, tensor in tensors.items():
            slots.append(Slot(name, tuple(tensor.shape), slots[-1].end if slots else 0))
        return cls(tuple(slots), slots[-1].end if slots else 0)

    @classmethod
    def of_parameters(cls, module: nn.Module) -> Self:
        """Return rows for the parameters of ``module``."""
        return cls.of(dict(module.named_parameters()))

    @classmethod
    def of_buffers(cls, module: nn.Module) -> Self:
        """Return rows for the buffers of ``module``; whole numbers become floats in a row."""
        return cls.of(dict(module.named_buffers()))

    def stack(self, modules: Sequence[nn.Module]) -> Tensor:
        """Return the rows of ``modules``, ``(P, D)``, a copy in the dtype of their parameters."""
        like = next(modules[0].parameters())
        matrix = torch.zeros(len(modules), self.width, dtype=like.dtype, device=like.device)
        for row, module in zip(matrix, modules, strict=True):
            self.save(module, row)
        return matrix

    def views(self, matrix: Tensor) -> dict[str, Tensor]:
        """Return the tensors of all members by name, ``(P, *shape)``, views of ``(P, D)``."""
        return {
            slot.name: matrix[:, slot.start : slot.end].view(len(matrix), *slot.shape)
            for slot in self.slots
        }

    @torch.no_grad()
    def load(self, row: Tensor, module: nn.Module) -> None:
        """Copy the numbers of a row ``(D,)`` into ``module``."""
        for name, tensor in self._tensors(module):
            tensor.copy_(self.views(row[None])[name][0])

    @torch.no_grad()
    def save(self, module: nn.Module, row: Tensor) -> None:
        """Copy the numbers of ``module`` into a row ``(D,)``."""
        for name, tensor in self._tensors(module):
            self.views(row[None])[name][0].copy_(tensor)

    def columns(self, names: Iterable[str]) -> Tensor:
        """Return where a row has the tensors of these names, ``(D,)`` bool."""
        chosen = set(names)
        mask = torch.zeros(self.width, dtype=torch.bool)
        for slot in self.slots:
            mask[slot.start : slot.end] |= slot.name in chosen
        return mask

    def _tensors(self, module: nn.Module) -> list[tuple[str, Tensor]]:
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        return [(slot.name, tensors[slot.name]) for slot in self.slots]
