"""The replay buffer of what came of acting."""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from wnrl.population.random import Number
from wnrl.population.rollout import pick
from wnrl.tensor_envs.core import TensorEnv

BRIGHTEST = 255
"""Of a byte: what a number 1 in a picture is kept as, since SB3 takes pictures in bytes."""


class Transitions(NamedTuple):
    """Steps of environments, ``(P, B, ...)``."""

    obs: Tensor
    actions: Tensor
    rewards: Tensor
    next_obs: Tensor
    """What was seen behind the step, before a reset."""
    terminated: Tensor
    """Whether the episode ended with the step, other than by a time limit."""


def empty_replay(env: TensorEnv, n_rows: int, n_envs: int, like: Tensor) -> Transitions:
    """Return room for ``n_rows`` steps of each environment, ``(P, n_rows, n_envs, ...)``.

    Pictures, with numbers from 0 to 1, are kept in bytes.

    Args:
        env: the environment, whose actions are discrete.
        n_rows: steps.
        n_envs: environments of a member.
        like: has P rows, the dtype and the device.
    """
    shape, inputs = (len(like), n_rows, n_envs), env.observation_space.shape
    zeros = partial(like.new_zeros, shape)
    dtype = torch.uint8 if len(inputs) == 3 else like.dtype
    seen, after = (like.new_zeros(*shape, *inputs, dtype=dtype) for _ in range(2))
    return Transitions(seen, zeros(dtype=torch.int64), zeros(), after, zeros(dtype=torch.bool))


def store_(replay: Transitions, steps: Transitions, start: Number) -> None:
    """Write T steps over the oldest rows of a replay buffer.

    Args:
        replay: ``(P, n_rows, N, ...)``.
        steps: ``(P, T, N, ...)``, of no more than ``n_rows``.
        start: how many steps were stored before.
    """
    n_rows, n_steps = replay.rewards.shape[1], steps.rewards.shape[1]
    rows = (torch.arange(n_steps, device=replay.rewards.device) + start) % n_rows
    for place, values in zip(replay, steps, strict=True):
        if place.dtype == torch.uint8:
            values = values.mul(BRIGHTEST).round_().to(place.dtype)
        place.index_copy_(1, rows, values)


def transitions_at(replay: Transitions, places: Tensor) -> Transitions:
    """Return the transitions at ``places`` ``(P, B)``, counted row by row, ``(P, B, ...)``."""
    seen = Transitions(*(pick(values.flatten(1, 2), places) for values in replay))
    obs, after = (as_seen(values, seen.rewards.dtype) for values in (seen.obs, seen.next_obs))
    return seen._replace(obs=obs, next_obs=after)


def as_seen(kept: Tensor, dtype: torch.dtype) -> Tensor:
    """Return observations that a replay buffer keeps as networks see them."""
    return kept.to(dtype) / BRIGHTEST if kept.dtype == torch.uint8 else kept
