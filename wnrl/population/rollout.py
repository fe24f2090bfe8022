"""What a rollout of all members at once is made of and gives, and minibatches of it.

Random numbers are a value that is handed in, ``Draws``. In normal use they are made from the
members' keys and the number of the iteration; a test puts in those of another program.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from wnrl.population.states import Agents
from wnrl.tensor_envs.core import Episodes

Act = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""From observations ``(P, N, D)`` and a memory ``(P, N, ...)`` to the actor's head ``(P, N, A)``,
the values ``(P, N)`` and the memory as it is then."""


class Draws(NamedTuple):
    """The random numbers of one iteration, uniform in the open (0, 1) but for the orders."""

    actions: Tensor
    """``(T, P, N, draws of an action)``."""
    steps: Tensor
    """``(T, P, N, step_draws + reset_draws)`` of the environment."""
    orders: Tensor | None
    """Permutations of the samples, ``(n_epochs, P, N * T)``; None where one minibatch has all.
    Sample ``n * T + t`` is step t of environment n. Of an algorithm that learns from sequences, the
    first sample of each epoch, ``(n_epochs, P)``."""


class Running(NamedTuple):
    """Where the environments of all members stand, ``(P, N, ...)``."""

    episodes: Episodes
    rewards: Tensor
    """The sum of rewards of the present episode so far."""
    memory: Tensor
    """What the networks remember, zero where an episode starts; without a number if nothing."""


class Match(NamedTuple):
    """Episodes that agents play to their end, ``(P, N, ...)``."""

    agents: Agents
    streams: Tensor
    """Keys of the random numbers, ``(P,)``."""
    running: Running
    """Its rewards are those of the first episode alone."""
    lengths: Tensor
    """``(P, N)`` int64."""
    alive: Tensor
    """Whether the first episode goes on, ``(P, N)`` bool."""


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


class Ended(NamedTuple):
    """The episodes that ended in a rollout, ``(P, N, T)``."""

    returns: Tensor
    """NaN where no episode ended."""
    lengths: Tensor
    """Zero where no episode ended."""


def pick(value: Tensor, places: Tensor) -> Tensor:
    """Return the samples of ``value`` ``(P, B, ...)`` at ``places`` ``(P, n)``."""
    members = torch.arange(len(value), device=value.device)
    return value[members[:, None], places]  # whole samples; torch.gather looks up each number


def minibatches(batch: Batch, order: Tensor, size: int) -> list[Batch]:
    """Return the samples in pieces of ``size``, in an order ``(P, B)``."""
    return [Batch(*(pick(value, places) for value in batch)) for places in order.split(size, 1)]
