"""SB3's models out of hyperparameters that have SB3's names."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pkgutil import resolve_name
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from torch import Tensor

import wnrl.sb3  # noqa: F401 (registers the names of the policies)
from wnrl.errors import check_choice
from wnrl.networks import ACTIVATIONS, NATURE_SIDE
from wnrl.rl.statistics import with_statistics
from wnrl.sb3.extractors import SmallCNN

MODELS: dict[str, type[BaseAlgorithm]] = {
    "ppo": PPO,
    "recurrent_ppo": RecurrentPPO,
    "dqn": DQN,
}
"""SB3's class, by algorithm."""
OPTIMIZERS: dict[str, str] = {
    "adam": "torch.optim:Adam",
    "adamw": "torch.optim:AdamW",
    "adamax": "torch.optim:Adamax",
    "rmsprop": "torch.optim:RMSprop",
    "rmsprop_tf": "stable_baselines3.common.sb2_compat.rmsprop_tf_like:RMSpropTFLike",
}
"""Importable names of optimizers, which have their default arguments."""
OURS = ("norm", "norm_kwargs", "norm_heads", "placement", "data_init")


def plain_policy(algorithm: Any) -> Any:
    """Return SB3's own policy for vectors."""
    return next(iter(algorithm.policy_aliases.values()))


def algorithm_arguments(algorithm: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that an algorithm takes, with schedules as SB3 has them."""
    arguments = _taken_by(algorithm, values)
    for name in ("learning_rate", "clip_range"):
        if values.get(f"{name}_schedule") == "linear":
            arguments[name] = LinearSchedule(values[name], values.get(f"{name}_end", 0.0), 1.0)
    return arguments


def policy_arguments(algorithm: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that our policy for an algorithm takes.

    Raises:
        UsageError: There is no such nonlinearity.
    """
    name = check_choice("activation_fn", values["activation_fn"], ACTIVATIONS)
    arguments = {
        **_taken_by(plain_policy(algorithm), values),
        **{name: values[name] for name in OURS if name in values},
        "net_arch": list(values["net_arch"]),
        "activation_fn": ACTIVATIONS[name],
    }
    arguments.pop("use_sde", None)  # SB3 hands it on itself
    optimizer, options = values["optimizer"], dict(values.get("optimizer_kwargs", {}))
    if optimizer != "adam" or options:  # beside no class, algorithms have options of their own
        arguments["optimizer_class"] = resolve_name(OPTIMIZERS[optimizer])
    if optimizer == "adamw":  # torch's default decay is 0.01
        options = {"weight_decay": values["weight_decay"], **options}
    return arguments | ({"optimizer_kwargs": options} if options else {})


def _taken_by(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that ``function`` has arguments for."""
    names = inspect.signature(function).parameters.keys() - {"policy_kwargs", "optimizer_kwargs"}
    return {name: value for name, value in values.items() if name in names}


def policy_name(space: spaces.Space[Any], memory: str = "") -> str:
    """Return the policy's name for observations: Cnn for images, MultiInput for a Dict.

    Args:
        space: of the observations.
        memory: Lstm or Gru for a recurrent policy.
    """
    family = "Mlp"
    if isinstance(space, spaces.Dict):
        family = "MultiInput"
    elif is_image_space(space):
        family = "Cnn"
    return f"WN{family}{memory}Policy"


def extractor(space: spaces.Space[Any]) -> dict[str, Any]:
    """Return the policy's arguments for images too small for SB3's convolutions; else none."""
    if not isinstance(space, spaces.Box) or not is_image_space(space):
        return {}
    sides = space.shape[1:] if is_image_space_channels_first(space) else space.shape[:2]
    return {"features_extractor_class": SmallCNN} if min(sides) < NATURE_SIDE else {}


class _Spaces(gym.Env[Any, Any]):
    """Stands in the place of an environment where SB3 asks for its spaces."""

    def __init__(self, observation_space: Any, action_space: Any) -> None:
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
        observation_space: Of its environment. Pictures are bytes for SB3, where 255 is the 1 of
            ``wnrl.tensor_envs``.
        action_space: Of its environment.
        state: The policy's, on any device.
        statistics: Of a ``VecNormalize``, see ``wnrl.rl.statistics``; None without one.
    """
    algorithm, values = MODELS[algo], asdict(config)
    shape: Any = observation_space.shape
    if len(shape) == 3:
        observation_space = spaces.Box(0, 255, shape, np.uint8)
    env: VecEnv = DummyVecEnv([lambda: _Spaces(observation_space, action_space)] * config.n_envs)
    model = algorithm(
        policy_name(observation_space, values.get("cell", "").capitalize()),
        env if statistics is None else with_statistics(env, statistics),
        policy_kwargs={**policy_arguments(algorithm, values), **extractor(observation_space)},
        device="cpu",
        **algorithm_arguments(algorithm, values),
    )
    model.policy.load_state_dict(state)
    set_step(model, values["total_timesteps"], values["total_timesteps"])
    return model


def set_step(model: BaseAlgorithm, step: int, total_timesteps: int) -> None:
    """Say after how many of its steps of training a model is that was not trained itself."""
    model.num_timesteps = step
    schedule = getattr(model, "exploration_schedule", None)  # of random actions, in DQN and QR-DQN
    if schedule is not None:
        model.exploration_rate = schedule(1 - step / total_timesteps)  # type: ignore[attr-defined]
