"""Masks of the actions that can be taken, for sb3-contrib's MaskablePPO."""

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import get_action_masks
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv


class ActionMasks(gym.Wrapper[Any, Any, Any, Any]):
    """Give the mask that Gymnasium's environments put into ``info`` as sb3-contrib asks for it."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._mask: Any = ()

    def action_masks(self) -> NDArray[np.bool_]:
        """Return True for each action that can be taken now."""
        return np.asarray(self._mask, bool)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        obs, info = super().reset(seed=seed, options=options)
        self._mask = info["action_mask"]
        return obs, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Play a step."""
        obs, reward, terminated, truncated, info = super().step(action)
        self._mask = info["action_mask"]
        return obs, reward, terminated, truncated, info


def with_masks(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """Return ``env`` in ``ActionMasks`` where it has Gymnasium's masks."""
    return ActionMasks(env) if hasattr(env.unwrapped, "action_mask") else env


def uses_masks(model: BaseAlgorithm, env: VecEnv) -> bool:
    """Return True where the agent takes masks, and ``env`` has some."""
    return isinstance(model, MaskablePPO) and env.has_attr("action_masks")


def mask_arguments(model: BaseAlgorithm, env: VecEnv) -> dict[str, Any]:
    """Return what ``predict`` of the agent takes besides observations."""
    return {"action_masks": get_action_masks(env)} if uses_masks(model, env) else {}
