"""States of a cohort as those of its members, and back: one row a member in each tensor."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


class Agents(NamedTuple):
    """All that acting depends on, one row a member in each matrix."""

    params: Tensor
    """``(P, D)``."""
    buffers: Tensor
    """Running statistics of the networks, ``(P, D')``."""
    statistics: Tensor
    """Those of observations and returns, ``(P, D'')`` in float64."""

    def clone(self) -> "Agents":
        """Return a copy."""
        return Agents(*(matrix.clone() for matrix in self))


def stacked(several: Sequence[Agents]) -> Agents:
    """Return the agents of all members, then again, and so on."""
    return Agents(*(torch.cat(matrices) for matrices in zip(*several, strict=True)))


def part_of(state: Any, place: int) -> Any:
    """Return a member's part of a cohort's state, as one of a cohort of one."""
    return pytree.tree_map_only(Tensor, lambda rows: rows[place : place + 1].clone(), state)


def joined(states: Sequence[Any]) -> Any:
    """Return the state of a cohort whose members have these states; undoes ``part_of``."""

    def together(first: Any, *others: Any) -> Any:
        return torch.cat([first, *others]) if isinstance(first, Tensor) else first

    return pytree.tree_map(together, *pytree.tree_map_only(Tensor, Tensor.cpu, list(states)))
