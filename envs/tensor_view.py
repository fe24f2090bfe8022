"""Tensor environments as Gymnasium's."""

from copy import copy
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from wnrl.tensor_envs import World
from wnrl.tensor_envs.core import State


class TensorView(gym.Env[np.ndarray, Any]):
    """One tensor environment, which computes in float64 and draws from ``np_random``.

    Args:
        env_id: a key of ``TENSOR_ENVS``.
        memory: the steps for which something has to be remembered, where that can be said.

    Raises:
        UsageError: there is no such tensor environment, or it has no memory of that length.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium's)

    def __init__(self, env_id: str, memory: int | None = None) -> None:
        self._env = World(env_id, memory=memory).tensor_env()
        self.observation_space = copy(self._env.observation_space)  # each has its own generator
        self.action_space = copy(self._env.action_space)
        self._state: dict[str, np.ndarray] = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        return self._seen(self._env.reset(self._draws(self._env.reset_draws))), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Step the tensor environment."""
        state = {name: torch.from_numpy(leaf) for name, leaf in self._state.items()}
        draws = self._draws(self._env.step_draws)
        state, reward, terminated = self._env.step(state, torch.as_tensor(action), draws)
        return self._seen(state), float(reward), bool(terminated), False, {}

    def _seen(self, state: State) -> np.ndarray:
        """Keep a state and return what is seen of it."""
        self._state = {name: leaf.numpy().copy() for name, leaf in state.items()}
        return self._env.observe(state).numpy().astype(self.observation_space.dtype)

    def _draws(self, n: int) -> torch.Tensor:
        """Return uniforms in the open (0, 1)."""
        return torch.from_numpy((self.np_random.integers(2**52, size=n) + 0.5) / 2**52)
