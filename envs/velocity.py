"""Tasks whose observation hides velocities, so that one observation is not the whole state.

A policy without memory cannot tell which way the pole falls; one with memory can.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from wnrl.errors import UsageError

# masked id: (the id it is made from, the places of velocities in its observation)
NO_VELOCITY: dict[str, tuple[str, tuple[int, ...]]] = {
    "CartPoleNoVel-v1": ("CartPole-v1", (1, 3)),
    "MountainCarNoVel-v0": ("MountainCar-v0", (1,)),
    "PendulumNoVel-v1": ("Pendulum-v1", (2,)),
    "LunarLanderNoVel-v3": ("LunarLander-v3", (2, 3, 5)),
}


class MaskVelocity(gym.ObservationWrapper[Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Sets the velocities in a vector observation to zero; its shape and bounds stay.

    Args:
        env: an environment with a one-dimensional ``Box`` observation that allows zeros.
        velocities: the places to hide, from 0.

    Raises:
        UsageError: the observation is no vector, a place is outside it, there is none, or zero is
            outside the bounds of one.
    """

    def __init__(self, env: gym.Env[Any, Any], velocities: Sequence[int]) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, velocities=velocities)
        gym.ObservationWrapper.__init__(self, env)
        space = env.observation_space
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            raise UsageError(f"MaskVelocity needs a Box of one axis as observation, got {space}")
        places = sorted(set(velocities))
        if not places or places[0] < 0 or places[-1] >= space.shape[0]:
            raise UsageError(
                f"velocities must be places in 0..{space.shape[0] - 1}, got {list(velocities)}"
            )
        if (space.low[places] > 0).any() or (space.high[places] < 0).any():
            raise UsageError(f"velocities {places} cannot be zero within the bounds of {space}")
        self._places = places

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """The observation with zeros for the hidden velocities."""
        hidden = np.array(observation)
        hidden[self._places] = 0  # not times zero, which would keep the sign
        return hidden


def register_no_velocity() -> None:
    """Registers every id of ``NO_VELOCITY`` with Gymnasium, with the limits of its base task."""
    for env_id, (base_id, velocities) in NO_VELOCITY.items():
        base = gym.spec(base_id)
        gym.register(
            env_id,
            entry_point=base.entry_point,
            reward_threshold=base.reward_threshold,
            max_episode_steps=base.max_episode_steps,
            kwargs=base.kwargs,
            additional_wrappers=(MaskVelocity.wrapper_spec(velocities=velocities),),
        )
