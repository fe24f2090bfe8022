"""Tasks with noise in what is observed and in the rewards.

Noise that minibatches bring into the statistics of batch norm adds to the noise of the task itself;
these tasks have more of the latter.
"""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from wnrl.errors import UsageError

# noisy id: (the id it is made from, deviation in observations, deviation in rewards)
NOISY: dict[str, tuple[str, float, float]] = {
    "CartPoleNoisy-v1": ("CartPole-v1", 0.05, 0.5),
    "AcrobotNoisy-v1": ("Acrobot-v1", 0.1, 0.5),
    "PendulumNoisy-v1": ("Pendulum-v1", 0.1, 2.0),
    "LunarLanderNoisy-v3": ("LunarLander-v3", 0.05, 1.0),
}


class GaussianNoise(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Adds independent normal noise of mean zero to every observation and reward.

    Args:
        env: an environment with real-valued ``Box`` observations; their bounds become infinite.
        obs_std: standard deviation in each observed number, in its unit.
        reward_std: standard deviation in the reward of each step. The return of an episode of T
            steps then has √T times as much, and the same mean as without.

    Raises:
        UsageError: a deviation is negative or not finite, or the observations are not real-valued.
    """

    def __init__(self, env: gym.Env[Any, Any], obs_std: float, reward_std: float) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, obs_std=obs_std, reward_std=reward_std)
        gym.Wrapper.__init__(self, env)
        space = env.observation_space
        if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
            raise UsageError(
                f"GaussianNoise needs a Box of real numbers as observation, got {space}"
            )
        for name, value in (("obs_std", obs_std), ("reward_std", reward_std)):
            if not 0 <= value < np.inf:
                raise UsageError(f"{name} must be zero or above, got {value!r}")
        self.observation_space = spaces.Box(-np.inf, np.inf, space.shape, space.dtype.type)
        self.obs_std, self.reward_std = obs_std, reward_std
        self._noise = np.random.default_rng()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Resets the environment; a seed is that of the noise as well."""
        obs, info = self.env.reset(seed=seed, options=options)
        if seed is not None:
            self._noise = np.random.default_rng([seed, 1])  # not the environment's own numbers
        return self._noisy(obs), info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Steps, with noise in what comes back."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        noisy_reward = float(reward) + self.reward_std * self._noise.standard_normal()
        return self._noisy(obs), noisy_reward, terminated, truncated, info

    def _noisy(self, obs: np.ndarray) -> np.ndarray:
        return (obs + self.obs_std * self._noise.standard_normal(obs.shape)).astype(obs.dtype)


def register_noisy() -> None:
    """Registers every id of ``NOISY`` with Gymnasium, with the limits of its base task."""
    for env_id, (base_id, obs_std, reward_std) in NOISY.items():
        base = gym.spec(base_id)
        gym.register(
            env_id,
            entry_point=base.entry_point,
            reward_threshold=base.reward_threshold,
            max_episode_steps=base.max_episode_steps,
            kwargs=base.kwargs,
            additional_wrappers=(
                GaussianNoise.wrapper_spec(obs_std=obs_std, reward_std=reward_std),
            ),
        )
