"""The shape of an environment as torch code, and a vector of episodes around it.

An environment is a value, a frozen dataclass of its parameters, with pure functions of tensors.
``*B`` below is any batch shape, usually ``(members, envs)``. Uniform draws are arguments: whoever
calls decides where they come from. Nothing here branches on a tensor's values or copies one to the
host, so that a loop of steps can be captured in a CUDA graph.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from gymnasium import spaces
from torch import Tensor

State = dict[str, Tensor]
"""Leaves ``(*B, ...)`` by name."""


@runtime_checkable
class TensorEnv(Protocol):
    """An environment without a time limit or a reset of its own; ``advance`` adds both.

    Integers come from a uniform u by ``(u * n).long()``, normals by ``normal(u)``.
    """

    @property
    def observation_space(self) -> spaces.Box:
        """The space of one environment's observation."""

    @property
    def action_space(self) -> spaces.Discrete | spaces.Box:
        """The space of one environment's action."""

    @property
    def max_episode_steps(self) -> int:
        """The number of steps after which an episode is truncated."""

    @property
    def reset_draws(self) -> int:
        """The number of uniforms that one reset takes."""

    @property
    def step_draws(self) -> int:
        """The number of uniforms that one step takes, without a reset's."""

    def reset(self, u: Tensor) -> State:
        """Return the first state of an episode.

        Args:
            u: uniforms in the open (0, 1), ``(*B, reset_draws)``; what is real in the state has
                their dtype, everything their device.
        """

    def observe(self, state: State) -> Tensor:
        """Return what is seen of a state, ``(*B, *obs_shape)``: a new tensor, in u's dtype."""

    def step(self, state: State, actions: Tensor, u: Tensor) -> tuple[State, Tensor, Tensor]:
        """Return the next state, the reward ``(*B)`` and whether it is terminal, ``(*B)``.

        Args:
            state: not changed.
            actions: ``(*B)`` in int64 where they are discrete, else ``(*B, *action_shape)``.
            u: uniforms in the open (0, 1), ``(*B, step_draws)``.
        """


@dataclass(frozen=True)
class Fixed:
    """A base of environments without parameters: all of a class are equal."""

    reset_draws: ClassVar[int] = 0
    step_draws: ClassVar[int] = 0


class Episodes(NamedTuple):
    """What a vector of environments is between two steps."""

    state: State
    obs: Tensor
    """What is seen now, ``(*B, *obs_shape)``."""
    steps: Tensor
    """Steps of the present episode so far, ``(*B)`` in int64."""


class Step(NamedTuple):
    """What one step gave; ``terminated`` and ``truncated`` are never both true."""

    rewards: Tensor
    """``(*B)``."""
    terminated: Tensor
    """``(*B)``, bool."""
    truncated: Tensor
    """``(*B)``, bool: the time limit was reached."""
    final_obs: Tensor
    """What was seen before the reset of what ended, ``(*B, *obs_shape)``, of every environment."""


def begin(env: TensorEnv, u: Tensor) -> Episodes:
    """Return environments at the start of an episode; ``u`` is ``(*B, reset_draws)``."""
    state = env.reset(u)
    steps = torch.zeros(u.shape[:-1], dtype=torch.int64, device=u.device)
    return Episodes(state, env.observe(state), steps)


def advance(
    env: TensorEnv, episodes: Episodes, actions: Tensor, u: Tensor
) -> tuple[Episodes, Step]:
    """Step every environment; what ends begins anew in the same step.

    Args:
        env: the environment.
        episodes: where the environments stand; not changed.
        actions: ``(*B)`` in int64 where they are discrete, else ``(*B, *action_shape)``.
        u: uniforms in the open (0, 1), ``(*B, step_draws + reset_draws)``.
    """
    step_u, reset_u = u.split((env.step_draws, env.reset_draws), dim=-1)
    state, rewards, terminated = env.step(episodes.state, actions, step_u)
    steps = episodes.steps + 1
    ended = terminated | (steps >= env.max_episode_steps)
    truncated = ended ^ terminated
    final_obs = env.observe(state)
    begun = env.reset(reset_u).items()
    state = {name: torch.where(beside(ended, new), new, state[name]) for name, new in begun}
    after = Episodes(state, env.observe(state), steps.masked_fill_(ended, 0))
    return after, Step(rewards, terminated, truncated, final_obs)


def normal(u: Tensor) -> Tensor:
    """Return standard normal numbers from uniforms in the open (0, 1).

    In float32 a uniform has to be at least 2^-25 away from 0 and 1. On a CPU this takes a quarter
    of the time of ``torch.special.ndtri``.
    """
    return torch.erfinv(u * 2 - 1) * math.sqrt(2)


def beside(numbers: Tensor, values: Tensor) -> Tensor:
    """Return ``(*B)`` as ``(*B, 1, ...)``, which fits ``values`` ``(*B, ...)``."""
    return numbers[(..., *[None] * (values.dim() - numbers.dim()))]
