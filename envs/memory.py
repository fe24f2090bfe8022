"""A task of memory: what was seen at the start decides at the end."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from wnrl.errors import check_positive

FORWARD, UP, DOWN = range(3)


class TMaze(gym.Env[np.ndarray, np.int64]):
    """A corridor with a junction at its end; a sign at its start says where to turn.

    The T-maze of Bakker (2001, "Reinforcement Learning with Long Short-Term Memory"). The
    observation, ``(3,)``, is two signs, up and down, of which one is 1 in the first cell alone, and
    whether this is the junction. Actions are forward, up and down. Turning up or down at the
    junction ends the episode: with 1 where the sign pointed, else with −1. A step into a wall costs
    0.1. An agent with memory can have 1; one without cannot have more than 0 on average.

    Args:
        length: cells of the corridor, the first one included; the junction is behind them.

    Raises:
        UsageError: ``length`` is not above zero.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium's)

    def __init__(self, length: int = 8) -> None:
        check_positive(length=length)
        self.length = length
        self.observation_space = spaces.Box(0.0, 1.0, (3,), np.float32)
        self.action_space = spaces.Discrete(3)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Puts the agent before a sign that is drawn anew."""
        super().reset(seed=seed)
        self._cell = 0
        self._goal = UP + int(self.np_random.integers(2))
        return self._observation(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Goes forward, or turns."""
        at_junction = self._cell == self.length
        if at_junction and action != FORWARD:
            return self._observation(), 1.0 if action == self._goal else -1.0, True, False, {}
        hits_wall = at_junction == (action == FORWARD)
        self._cell += not hits_wall
        return self._observation(), -0.1 if hits_wall else 0.0, False, False, {}

    def _observation(self) -> np.ndarray:
        at_start = self._cell == 0
        signs = (at_start and self._goal == UP, at_start and self._goal == DOWN)
        return np.array([*signs, self._cell == self.length], np.float32)


def register_memory() -> None:
    """Registers the T-maze with Gymnasium; it leaves time for as many errors as steps."""
    for length, env_id in ((8, "TMaze-v0"), (40, "TMazeLong-v0")):
        gym.register(
            env_id,
            entry_point="envs.memory:TMaze",
            max_episode_steps=2 * (length + 1),
            reward_threshold=0.9,
            kwargs={"length": length},
        )
