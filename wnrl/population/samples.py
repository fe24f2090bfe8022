"""The samples of a rollout, and minibatches of them."""

from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """Samples ``(P, B, ...)``."""

    obs: Tensor
    actions: Tensor
    log_probs: Tensor
    advantages: Tensor
    returns: Tensor


class Past(NamedTuple):
    """What came before samples ``(P, B, ...)``."""

    memory: Tensor
    """With which the sample was acted, zero where an episode starts, ``(P, B, ...)``."""
    starts: Tensor
    """Whether the sample is the first of an episode, ``(P, B)``."""


def pick(value: Tensor, places: Tensor) -> Tensor:
    """Return the samples of ``value`` ``(P, B, ...)`` at ``places`` ``(P, n)``."""
    members = torch.arange(len(value), device=value.device)
    return value[members[:, None], places]  # whole samples; torch.gather looks up each number


def minibatches(batch: Batch, order: Tensor, size: int) -> list[Batch]:
    """Return the samples in pieces of ``size``, in an order ``(P, B)``."""
    return [Batch(*(pick(value, places) for value in batch)) for places in order.split(size, 1)]
