"""States of a cohort as those of its members, and back: one row a member in each tensor."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


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
    if isinstance(state, dict):
        return {name: part_of(value, place) for name, value in state.items()}
    if isinstance(state, Tensor):
        return state[place : place + 1].clone()
    return [part_of(value, place) for value in state] if isinstance(state, list | tuple) else state


def joined(states: Sequence[Any]) -> Any:
    """Return the state of a cohort whose members have these states; undoes ``part_of``."""
    first = states[0]
    if isinstance(first, Mapping):
        return {name: joined([state[name] for state in states]) for name in first}
    if isinstance(first, Tensor):
        return torch.cat([state.cpu() for state in states])
    if isinstance(first, list):
        return [joined(each) for each in zip(*states, strict=True)]
    return first
