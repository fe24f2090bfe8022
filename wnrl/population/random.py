"""Random numbers from a counter and a member's key (splitmix64: Steele, Lea & Flood, OOPSLA 2014).

Number i of a stream is a mixing function of ``key + i · γ``. There is no state: which numbers a
member gets depends on its seed and on which numbers are asked for, never on how many other members
there are. All functions work on any device, and under CUDA graphs if ``start`` is a tensor.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

Number = int | float | Tensor
"""A number of Python; in a CUDA graph, where it changes from call to call, a tensor of one."""
_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64
_DIGITS = 23  # as many as leave the middle of each interval exact in float32


def member_keys(seeds: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Return a key for each seed, ``(P,)`` int64."""
    return _mix(torch.tensor(seeds, dtype=torch.int64, device=device) * _GAMMA + 1)


def fork(keys: Tensor, stream: int) -> Tensor:
    """Return keys ``(P,)`` of other streams, one for each number ``stream`` from zero on."""
    number = _FIRST * (2 * stream + 1)
    return _mix(keys ^ ((number + 2**63) % 2**64 - 2**63))  # its lowest 64 bits, signed


def bits(keys: Tensor, start: Number, n: int) -> Tensor:
    """Return numbers ``start`` to ``start + n - 1`` of each stream, ``(P, n)`` int64."""
    counter = torch.arange(1, n + 1, device=keys.device) + start
    return _mix(keys[:, None] + counter * _GAMMA)


def uniform(keys: Tensor, start: Number, n: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return uniform numbers of the open interval (0, 1), ``(P, n)``.

    They are the middles of 2²³ equal intervals, so that 0 and 1 never come, and the mean is 1/2.
    """
    steps = _shifted(bits(keys, start, n), 64 - _DIGITS)
    return (steps.to(dtype) + 0.5) * 2.0**-_DIGITS


def integers(keys: Tensor, start: Number, n: int, high: int) -> Tensor:
    """Return uniform whole numbers from 0 to ``high`` − 1, ``(P, n)`` int64."""
    return _shifted(bits(keys, start, n), 1) % high


def permutation(keys: Tensor, start: Number, n: int) -> Tensor:
    """Return a random order of 0 to n − 1 for each key, ``(P, n)`` int64; it takes n numbers."""
    return bits(keys, start, n).argsort(dim=1)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shifted(z, 30)) * _FIRST
    z = (z ^ _shifted(z, 27)) * _SECOND
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, n: int) -> Tensor:
    """Shift to the right as unsigned numbers: int64 is the only wide type with all operations."""
    return (z >> n) & ((1 << (64 - n)) - 1)
