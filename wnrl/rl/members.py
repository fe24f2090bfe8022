"""A member of a population as a model of SB3."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import gymnasium as gym
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from torch import Tensor

import wnrl.sb3  # noqa: F401 (registers the names of the policies)
from wnrl.rl.arguments import algorithm_arguments, policy_arguments
from wnrl.rl.statistics import with_statistics

MODELS: dict[str, type[BaseAlgorithm]] = {"ppo": PPO, "recurrent_ppo": RecurrentPPO}
"""SB3's class, by algorithm."""


class _Spaces(gym.Env[Any, Any]):
    """Stands in the place of an environment where SB3 asks for its spaces."""

    def __init__(
        self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
    ) -> None:
        self.observation_space, self.action_space = observation_space, action_space


def to_sb3(
    algo: str,
    config: Any,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    state: Mapping[str, Tensor],
    statistics: Mapping[str, Any] | None = None,
) -> BaseAlgorithm:
    """Return a model of SB3 with the hyperparameters and the network of a member.

    Args:
        algo: A key of ``MODELS``.
        config: The member's, a dataclass with SB3's names.
        observation_space: Of its environment.
        action_space: Of its environment.
        state: The policy's, on any device.
        statistics: Of a ``VecNormalize``, see ``wnrl.rl.statistics``; None without one.
    """
    algorithm, values = MODELS[algo], asdict(config)
    env: VecEnv = DummyVecEnv([lambda: _Spaces(observation_space, action_space)] * config.n_envs)
    model = algorithm(
        f"WNMlp{values.get('cell', '').capitalize()}Policy",
        env if statistics is None else with_statistics(env, statistics),
        policy_kwargs=policy_arguments(algorithm, values),
        device="cpu",
        **algorithm_arguments(algorithm, values),
    )
    model.policy.load_state_dict(state)
    model.num_timesteps = values["total_timesteps"]
    return model
