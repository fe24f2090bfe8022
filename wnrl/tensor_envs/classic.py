"""Gymnasium's classic control as torch code, with its dynamics, rewards and limits."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from wnrl.tensor_envs.core import State


def _box(*high: float) -> spaces.Box:
    limits = np.array(high, np.float32)
    return spaces.Box(-limits, limits, dtype=np.float32)


@dataclass(frozen=True)
class CartPole:
    """``CartPole-v1``: a pole on a cart that is pushed left or right (Barto et al., 1983)."""

    X_LIMIT: ClassVar[float] = 2.4
    ANGLE_LIMIT: ClassVar[float] = 12 * 2 * math.pi / 360
    observation_space: ClassVar[spaces.Box] = _box(2 * X_LIMIT, np.inf, 2 * ANGLE_LIMIT, np.inf)
    action_space: ClassVar[spaces.Discrete] = spaces.Discrete(2)
    max_episode_steps: ClassVar[int] = 500
    reset_draws: ClassVar[int] = 4
    step_draws: ClassVar[int] = 0

    def reset(self, u: Tensor) -> State:
        """Return positions, velocities, angles and angular velocities within 0.05 of zero."""
        return {"x": u * 0.1 - 0.05}

    def observe(self, state: State) -> Tensor:
        """Return the state, ``(*B, 4)``."""
        return state["x"].clone()

    def step(self, state: State, actions: Tensor, u: Tensor) -> tuple[State, Tensor, Tensor]:
        """Push with 10 N for 0.02 s; the reward is 1."""
        x = state["x"]
        _, speed, angle, spin = x.unbind(-1)
        sin, cos = angle.sin(), angle.cos()
        force = actions.to(x.dtype) * 20 - 10
        push = torch.addcmul(force, spin.square(), sin, value=0.05) / 1.1
        torque = torch.addcmul(sin * 9.8, cos, push, value=-1)
        spin_rate = torque / (4 / 6 - cos.square() * (0.05 / 1.1))
        speed_rate = torch.addcmul(push, spin_rate, cos, value=-0.05 / 1.1)
        x = x.add(torch.stack((speed, speed_rate, spin, spin_rate), -1), alpha=0.02)
        fallen = x[..., 2].abs() > self.ANGLE_LIMIT
        return {"x": x}, torch.ones_like(push), fallen | (x[..., 0].abs() > self.X_LIMIT)
