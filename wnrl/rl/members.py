"""A member of a population as a model of SB3."""

import inspect
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import gymnasium as gym
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from torch import Tensor

from wnrl.networks import ACTIVATIONS
from wnrl.rl.statistics import with_statistics
from wnrl.sb3 import WNMlpGruPolicy, WNMlpLstmPolicy, WNMlpPolicy

MODELS: dict[str, type[BaseAlgorithm]] = {"ppo": PPO, "recurrent_ppo": RecurrentPPO}
"""SB3's class, by algorithm."""
POLICIES: dict[str | None, type[Any]] = {
    None: WNMlpPolicy,
    "lstm": WNMlpLstmPolicy,
    "gru": WNMlpGruPolicy,
}
"""Our policy, by the recurrent layer."""
OPTIMIZERS = {"adamw": torch.optim.AdamW, "adamax": torch.optim.Adamax}


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
    policy = POLICIES[values.get("cell")]
    for name in ("learning_rate", "clip_range"):
        if values.get(f"{name}_schedule") == "linear":
            values[name] = LinearSchedule(values[name], values.get(f"{name}_end", 0.0), 1.0)
    names = inspect.signature(algorithm).parameters
    arguments = {name: value for name, value in values.items() if name in names}
    plain = inspect.signature(next(iter(algorithm.policy_aliases.values()))).parameters
    options = {name: value for name, value in values.items() if name in plain}
    options |= {name: values[name] for name in ("norm", "norm_kwargs", "norm_heads", "data_init")}
    options["activation_fn"] = ACTIVATIONS[values["activation_fn"]]
    options["net_arch"] = list(values["net_arch"])
    if values["optimizer"] in OPTIMIZERS:
        options["optimizer_class"] = OPTIMIZERS[values["optimizer"]]
    if values["optimizer"] == "adamw":
        options["optimizer_kwargs"] = {"weight_decay": values["weight_decay"]}
    env: VecEnv = DummyVecEnv([lambda: _Spaces(observation_space, action_space)] * config.n_envs)
    model = algorithm(
        policy,
        env if statistics is None else with_statistics(env, statistics),
        policy_kwargs=options,
        device="cpu",
        **arguments,
    )
    model.policy.load_state_dict(state)
    model.num_timesteps = values["total_timesteps"]
    return model
