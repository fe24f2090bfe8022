"""A task with dials that make it harder: noise, losses, delay, hidden numbers, memory.

``World("CartPole-v1", obs_noise=0.1, delay=2)`` is one value for both forms of a task: its tensor
environment here and its Gymnasium environment in ``envs``. Its id says all of it,
``CartPole-obs_noise0.1-delay2-v1``, and is read back by ``World.from_id``.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Annotated, Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from wnrl.arguments import checked
from wnrl.errors import UsageError, check_choice
from wnrl.limits import FromZero, Limited, WholeFromZero, limit
from wnrl.tensor_envs.classic import Acrobot, CartPole, MountainCar, MountainCarContinuous, Pendulum
from wnrl.tensor_envs.core import State, TensorEnv, beside, normal
from wnrl.tensor_envs.memory import DelayedMatch, RepeatPrevious, TMaze
from wnrl.tensor_envs.minatar_asterix import Asterix
from wnrl.tensor_envs.minatar_breakout import Breakout
from wnrl.tensor_envs.minatar_freeway import Freeway
from wnrl.tensor_envs.minatar_seaquest import Seaquest
from wnrl.tensor_envs.minatar_space_invaders import SpaceInvaders

Probability = Annotated[float, limit(lambda p: 0 <= p < 1, "in [0, 1)")]
TENSOR_ENVS: dict[str, Callable[[], TensorEnv]] = {
    "CartPole-v1": CartPole,
    "Acrobot-v1": Acrobot,
    "MountainCar-v0": MountainCar,
    "MountainCarContinuous-v0": MountainCarContinuous,
    "Pendulum-v1": Pendulum,
    "TMaze-v0": TMaze,
    "RepeatPrevious-v0": RepeatPrevious,
    "DelayedMatch-v0": DelayedMatch,
    "MinAtarAsterix-v1": Asterix,
    "MinAtarBreakout-v1": Breakout,
    "MinAtarFreeway-v1": Freeway,
    "MinAtarSeaquest-v1": Seaquest,
    "MinAtarSpaceInvaders-v1": SpaceInvaders,
}
"""From the id of the Gymnasium environment with the same dynamics to the one here."""
WORLDS: dict[str, "World"] = {}
"""Worlds that have names, which are ids too."""


@dataclass(frozen=True)
class World(Limited):
    """An environment with dials; at zero each leaves it alone.

    What is seen in a step is made in this order: the observation of ``delay`` steps ago, noise,
    zeros at the hidden places, zeros everywhere if it is lost. The final observation of an episode
    is seen in the same way.

    Raises:
        UsageError: a dial is out of its range, or the base is a world itself.
    """

    base: str
    """Gymnasium's id of the environment."""
    obs_noise: FromZero = 0.0
    """Standard deviation of normal noise in each observed number, in its unit."""
    reward_noise: FromZero = 0.0
    """Standard deviation of normal noise in the reward of each step. The return of T steps then has
    √T times as much, and the same mean as without."""
    obs_dropout: Probability = 0.0
    """Probability that an observation is lost and zeros are seen in its place, independently in
    each step: the flickering screen of Hausknecht & Stone (2015, arXiv:1507.06527)."""
    delay: WholeFromZero = 0
    """Steps after which an observation is seen, rewards being on time (Katsikopoulos & Engelbrecht,
    2003). Before the first one arrives zeros are seen, as with Gymnasium's DelayObservation."""
    sticky: Probability = 0.0
    """Probability that the action that was carried out before is carried out again, whatever is
    asked for (Machado et al., 2018, arXiv:1709.06009); the first one of an episode is as asked."""
    hidden: tuple[WholeFromZero, ...] = ()
    """Places of a vector observation, from 0, that are always seen as zero."""
    memory: WholeFromZero | None = None
    """For tasks of memory: the number of steps for which something has to be remembered."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base in WORLDS or _parts(self.base)[1]:
            raise UsageError(f"base must be the id of an environment, got the world {self.base!r}")
        object.__setattr__(self, "hidden", tuple(sorted({*self.hidden})))

    @property
    def id(self) -> str:
        """The dials that are not at zero, written into the base's id before its version."""
        name, _, version = _parts(self.base)
        dials = [(field.name, getattr(self, field.name)) for field in fields(self)[1:]]
        texts = [f"-{word}{_text(x)}" for word, x in dials if x != getattr(World, word)]
        return f"{name}{''.join(texts)}{version}"

    @classmethod
    @checked
    def from_id(cls, env_id: str) -> "World":
        """Return the world of an id, or of a name in ``WORLDS``; any other id has no dials.

        Raises:
            UsageError: a dial is out of its range, or the id is not written as ``id`` writes it.
        """
        if env_id in WORLDS:
            return WORLDS[env_id]
        name, dials, version = _parts(env_id)
        world = cls(name + version, **{word: _value(word, text) for word, text in dials})
        if world.id != env_id:
            raise UsageError(f"env_id {env_id!r} must be written {world.id!r}")
        return world

    @property
    def changes_steps(self) -> bool:
        """False where what is seen, done and rewarded is that of the base, but for its memory."""
        return replace(self, memory=None) != World(self.base)

    def observation_space(self, base: spaces.Space[Any]) -> spaces.Space[Any]:
        """Return the space of what is seen where the environment's is ``base``.

        Raises:
            UsageError: the environment has no such observations as the dials need.
        """
        if not (self.obs_noise or self.obs_dropout or self.delay or self.hidden):
            return base
        if not isinstance(base, spaces.Box):
            raise UsageError(f"{self.id} needs a Box as observation, got {base}")
        if self.hidden and len(base.shape) != 1:
            raise UsageError(f"hidden needs a vector as observation, got {base}")
        if self.hidden and self.hidden[-1] >= base.shape[0]:
            raise UsageError(f"hidden must be places in 0..{base.shape[0] - 1}, got {self.hidden}")
        if not self.obs_noise:
            low, high = np.minimum(base.low, 0), np.maximum(base.high, 0)
            return spaces.Box(low, high, dtype=base.dtype.type)
        if not np.issubdtype(base.dtype, np.floating):
            raise UsageError(f"obs_noise needs a Box of real numbers as observation, got {base}")
        return spaces.Box(-np.inf, np.inf, base.shape, base.dtype.type)

    def tensor_env(self) -> TensorEnv:
        """Return the tensor environment.

        Raises:
            UsageError: the base has none, or the dials do not fit it.
        """
        env = TENSOR_ENVS[check_choice("env_id", self.base, TENSOR_ENVS)]()
        if self.memory is not None:
            if not is_dataclass(env) or "memory" not in {field.name for field in fields(env)}:
                raise UsageError(f"memory is no dial of {self.base}, got {self.memory}")
            env = replace(env, memory=self.memory)
        return TensorWorld(self, env) if self.changes_steps else env


@dataclass
class TensorWorld:
    """The tensor environment of a world whose base has one; ``world.tensor_env()`` makes it."""

    world: World
    env: TensorEnv

    def __post_init__(self) -> None:
        """Check that the dials fit the environment, and count the draws of each."""
        world, env = self.world, self.env
        space = world.observation_space(env.observation_space)
        assert isinstance(space, spaces.Box)
        self.observation_space, self.action_space = space, env.action_space
        self.max_episode_steps = env.max_episode_steps
        seen = (math.prod(space.shape) if world.obs_noise else 0, int(world.obs_dropout > 0))
        dials = int(world.sticky > 0), int(world.reward_noise > 0)
        self._reset_parts = env.reset_draws, *seen
        self._step_parts = env.step_draws, *dials, *seen
        self.reset_draws, self.step_draws = sum(self._reset_parts), sum(self._step_parts)

    def reset(self, u: Tensor) -> State:
        """Return the base's first state, and what is seen of it."""
        base_u, noise_u, loss_u = u.split(self._reset_parts, -1)
        state = dict(self.env.reset(base_u))
        if self.world.sticky:
            space, batch = self.env.action_space, u.shape[:-1]
            dtype = torch.int64 if isinstance(space, spaces.Discrete) else u.dtype
            state["world_action"] = u.new_zeros((*batch, *(space.shape or ())), dtype=dtype)
            state["world_acted"] = u.new_zeros(batch, dtype=torch.bool)
        if self.world.delay:
            shape = (self.world.delay, *self.observation_space.shape)
            state["world_queue"] = u.new_zeros(u.shape[:-1] + shape)
        return self._seen(state, noise_u, loss_u)

    def observe(self, state: State) -> Tensor:
        """Return what is seen of a state, ``(*B, *obs_shape)``."""
        return state["world_obs"].clone()

    def step(self, state: State, actions: Tensor, u: Tensor) -> tuple[State, Tensor, Tensor]:
        """Step the base."""
        world = self.world
        base_u, sticky_u, reward_u, noise_u, loss_u = u.split(self._step_parts, -1)
        dials = {name: leaf for name, leaf in state.items() if name.startswith("world_")}
        base = {name: leaf for name, leaf in state.items() if name not in dials}
        if world.sticky:
            again = (sticky_u[..., 0] < world.sticky) & state["world_acted"]
            actions = torch.where(beside(again, actions), state["world_action"], actions)
            dials["world_action"] = actions
            dials["world_acted"] = torch.ones_like(again)
        base, rewards, terminated = self.env.step(base, actions, base_u)
        if world.reward_noise:
            rewards = rewards.add(normal(reward_u[..., 0]), alpha=world.reward_noise)
        return self._seen({**base, **dials}, noise_u, loss_u), rewards, terminated

    def _seen(self, state: State, noise_u: Tensor, loss_u: Tensor) -> State:
        """Return the state with what is seen of it now."""
        world, obs = self.world, self.env.observe(state)
        if world.delay:
            axis = noise_u.dim() - 1  # (*B, delay, *obs_shape)
            line = torch.cat((state["world_queue"], obs.unsqueeze(axis)), axis)
            obs, state["world_queue"] = line.split((1, world.delay), axis)
            obs = obs.squeeze(axis)
        if world.obs_noise:
            obs = obs.add(normal(noise_u).view(obs.shape), alpha=world.obs_noise)
        for place in world.hidden:
            obs[..., place] = 0
        if world.obs_dropout:
            obs = obs.masked_fill(beside(loss_u[..., 0] < world.obs_dropout, obs), 0)
        return {**state, "world_obs": obs}


_DIAL = rf"-({'|'.join(field.name for field in fields(World)[1:])})(\d+(?:\.\d+)*)"
_ID = re.compile(rf"(?P<name>.*?)(?P<dials>(?:{_DIAL})*)(?P<version>-v\d+)?", re.DOTALL)


def _parts(env_id: str) -> tuple[str, list[tuple[str, str]], str]:
    """Return the name, the dials as words with texts, and the version with its hyphen."""
    match = _ID.fullmatch(env_id)
    assert match
    return match["name"], re.findall(_DIAL, match["dials"]), match["version"] or ""


def _value(word: str, text: str) -> Any:
    """Return a dial's value from its text in an id; what is no number stays a text."""
    parts = text.split(".")
    if word == "hidden":
        return tuple(map(int, parts))
    return text if len(parts) > 2 else float(text) if len(parts) > 1 else int(text)


def _text(value: Any) -> str:
    """Return a dial's value as an id has it, with as many digits as tell it from others."""
    if isinstance(value, tuple):
        return ".".join(map(str, value))
    return np.format_float_positional(value, trim="-")


WORLDS |= {
    "CartPoleNoisy-v1": World("CartPole-v1", obs_noise=0.05, reward_noise=0.5),
    "AcrobotNoisy-v1": World("Acrobot-v1", obs_noise=0.1, reward_noise=0.5),
    "PendulumNoisy-v1": World("Pendulum-v1", obs_noise=0.1, reward_noise=2.0),
    "LunarLanderNoisy-v3": World("LunarLander-v3", obs_noise=0.05, reward_noise=1.0),
    "CartPoleNoVel-v1": World("CartPole-v1", hidden=(1, 3)),
    "MountainCarNoVel-v0": World("MountainCar-v0", hidden=(1,)),
    "PendulumNoVel-v1": World("Pendulum-v1", hidden=(2,)),
    "LunarLanderNoVel-v3": World("LunarLander-v3", hidden=(2, 3, 5)),
    "TMazeLong-v0": World("TMaze-v0", memory=40),
}
