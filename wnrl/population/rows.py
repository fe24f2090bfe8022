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
        for tensor, view in self._pairs(module, row):
            tensor.copy_(view)

    @torch.no_grad()
    def save(self, module: nn.Module, row: Tensor) -> None:
        """Copy the numbers of ``module`` into a row ``(D,)``."""
        for tensor, view in self._pairs(module, row):
            view.copy_(tensor)

    def columns(self, names: Iterable[str]) -> Tensor:
        """Return where a row has the tensors of these names, ``(D,)`` bool."""
        chosen = set(names)
        mask = torch.zeros(self.width, dtype=torch.bool)
        for slot in self.slots:
            mask[slot.start : slot.end] |= slot.name in chosen
        return mask

    def _pairs(self, module: nn.Module, row: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return the tensors of ``module`` with their places in a row."""
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        return [(tensors[name], view[0]) for name, view in self.views(row[None]).items()]
