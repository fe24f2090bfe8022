"""How an SB3 model is put together from a configuration, an environment and a norm."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import VecEnv

from agents.config import ANY_ACTION, Config, OffPolicyConfig
from wnrl.errors import UsageError
from wnrl.rl.environments import first_env_seed
from wnrl.sb3.extractors import SmallCNN

BASIC = tuple(getattr(spaces, name) for name in ANY_ACTION)

NATURE_SIDE = 36  # pixels that SB3's convolutions need


def assemble(
    config: Config,
    env: VecEnv,
    norm: str = "weight",
    seed: int = 0,
    device: torch.device | str = "auto",
) -> Any:
    """Return the SB3 model of ``config``, with a normalised policy that fits the observations.

    Args:
        config: hyperparameters.
        env: what to learn in, from ``wnrl.rl.environments.vectorize``.
        norm: a key of ``wnrl.NORMS``.
        seed: seeds Python, NumPy and torch; the environments count on from
            ``first_env_seed(seed)``.
        device: where the network lives.

    Raises:
        UsageError: the norm does not exist, or ``env`` does not fit the algorithm or ``config``.
    """
    check_spaces(config, env)
    seen = env.observation_space
    name = policy_name(seen, config.memory)
    if name not in config.algorithm.policy_aliases:
        raise UsageError(f"{config.algorithm.__name__} has no policy for observations like {seen}")
    if env.num_envs != config.n_envs:
        raise UsageError(f"n_envs is {config.n_envs}, but env has {env.num_envs} environments")
    model = config.algorithm(
        policy=name,
        env=env,
        policy_kwargs={**config.policy_arguments(), **extractor(seen), "norm": norm},
        seed=seed,
        device=device,
        **config.algorithm_arguments(),
        **config.arguments_for(env.action_space),
    )
    env.seed(first_env_seed(seed))  # SB3 has seeded them with seed, seed + 1, ...
    return model


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


def check_spaces(config: Config, env: VecEnv) -> None:
    """Raise UsageError where the algorithm of ``config`` could not learn in ``env``."""
    seen, acted = env.observation_space, env.action_space
    parts = tuple(seen.spaces.values()) if isinstance(seen, spaces.Dict) else (seen,)
    if not isinstance(seen, (*BASIC, spaces.Dict)):
        raise UsageError(f"observations must be a Box, Dict or discrete space, got {seen}")
    for word, space in (*(("observations", part) for part in parts), ("actions", acted)):
        if np.any(getattr(space, "start", 0)):  # which SB3 passes over
            raise UsageError(f"{word} must count from 0, got {space}: shift them in a wrapper")
    if not isinstance(acted, tuple(getattr(spaces, name) for name in config.actions)):
        allowed = " or ".join(config.actions)
        raise UsageError(f"actions must be {allowed} for {config.algorithm.__name__}, got {acted}")
    if getattr(config, "use_sde", False) and not isinstance(acted, spaces.Box):
        raise UsageError(f"use_sde needs continuous actions (a Box), got {acted}")
    if isinstance(acted, spaces.Box) and not acted.is_bounded():
        raise UsageError(f"actions must have finite bounds, got {acted}")
    if isinstance(seen, spaces.Dict):
        _check_dict(config, seen)
    if config.masked and not env.has_attr("action_masks"):
        raise UsageError(
            f"{config.algorithm.__name__} needs an environment with a method action_masks, "
            'or info["action_mask"]'
        )


def _check_dict(config: Config, seen: spaces.Dict) -> None:
    for key, part in seen.items():
        if not isinstance(part, BASIC):
            raise UsageError(
                f"observations in a Dict must be Box or discrete spaces, got {key!r}: {part}"
            )
        if extractor(part):
            raise UsageError(
                f"images in a Dict must be {NATURE_SIDE}×{NATURE_SIDE} or more, got {key!r}: {part}"
            )
    for name, plain in (("n_steps", 1), ("optimize_memory_usage", False)):
        if isinstance(config, OffPolicyConfig) and getattr(config, name) != plain:
            raise UsageError(f"{name} must be {plain} where observations are a Dict")
