"""A world's dials around any Gymnasium environment; its id registers itself."""

from collections import deque
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np

from wnrl.errors import UsageError
from wnrl.tensor_envs import TENSOR_ENVS, WORLDS, World

VIEW = "envs.tensor_view:TensorView"


class WorldWrapper(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Changes what is seen, done and rewarded as a world's dials say, but for its memory.

    Args:
        env: the world's base.
        world: says what is done; see there for the order.

    Raises:
        UsageError: the environment has no such observations as the dials need.
    """

    def __init__(self, env: gym.Env[Any, Any], world: World) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, world=world)
        gym.Wrapper.__init__(self, env)
        self.observation_space = world.observation_space(env.observation_space)
        self.world = world
        self._random = np.random.default_rng()
        self._queue: deque[np.ndarray] = deque()
        self._last_action: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset the environment; a seed is that of the dials as well."""
        obs, info = self.env.reset(seed=seed, options=options)
        if seed is not None:
            self._random = np.random.default_rng([seed, 1])  # not the environment's own numbers
        self._queue.clear()
        self._last_action = None
        return self._seen(obs), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step the environment."""
        if self.world.sticky:
            if self._last_action is not None and self._random.random() < self.world.sticky:
                action = self._last_action
            self._last_action = deepcopy(action)  # which the caller may write into
        obs, reward, terminated, truncated, info = self.env.step(action)
        reward = float(reward)
        if self.world.reward_noise:
            reward += self.world.reward_noise * self._random.standard_normal()
        return self._seen(obs), reward, terminated, truncated, info

    def _seen(self, obs: Any) -> Any:
        world = self.world
        if world.delay:
            self._queue.append(np.array(obs))  # which the environment may write into
            obs = self._queue.popleft() if len(self._queue) > world.delay else np.zeros_like(obs)
        if world.obs_noise:
            noise = world.obs_noise * self._random.standard_normal(obs.shape)
            obs = (obs + noise).astype(obs.dtype)
        if world.hidden:
            obs = np.array(obs)
            obs[list(world.hidden)] = 0  # not times zero, which would keep the sign
        if world.obs_dropout and self._random.random() < world.obs_dropout:
            obs = np.zeros_like(obs)
        return obs


def register_world(env_id: str) -> None:
    """Register what an id describes: a tensor environment, or a world with its base's limits.

    Nothing is done where the id is registered, or the base is unknown.

    Raises:
        UsageError: a dial is out of its range, or the base has no such dial.
    """
    if env_id in gym.registry:
        return
    world = World.from_id(env_id)
    if world.base in TENSOR_ENVS and world.base not in gym.registry:
        steps = World(world.base).tensor_env().max_episode_steps
        gym.register(world.base, VIEW, max_episode_steps=steps, kwargs={"env_id": world.base})
    if world.base == env_id or world.base not in gym.registry:
        return
    base = gym.spec(world.base)
    limit, kwargs, wrappers = base.max_episode_steps, dict(base.kwargs), base.additional_wrappers
    if world.memory is not None:
        if base.entry_point != VIEW:
            raise UsageError(f"memory is no dial of {world.base}, got {world.memory}")
        limit = World(world.base, memory=world.memory).tensor_env().max_episode_steps
        kwargs["memory"] = world.memory
    if world.changes_steps:
        wrappers = (*wrappers, WorldWrapper.wrapper_spec(world=world))
    gym.register(
        env_id,
        entry_point=base.entry_point,
        reward_threshold=base.reward_threshold,
        max_episode_steps=limit,
        kwargs=kwargs,
        additional_wrappers=wrappers,
    )


def register_worlds() -> None:
    """Register tensor environments that Gymnasium does not have, and worlds that have names."""
    for env_id in (*TENSOR_ENVS, *WORLDS):
        register_world(env_id)
