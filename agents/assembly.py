"""How an SB3 model is put together from a configuration, an environment and a norm."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from stable_baselines3.common.vec_env import VecEnv

from wnrl.errors import UsageError, printable
from wnrl.rl.environments import check_observations, first_env_seed, parts
from wnrl.rl.models import extractor, policy_name


def assemble(
    config: Any,
    env: VecEnv,
    norm: str = "weight",
    seed: int = 0,
    device: torch.device | str = "auto",
) -> Any:
    """Return the SB3 model of ``config``, with a normalised policy that fits the observations.

    Args:
        config: hyperparameters, a ``Config``.
        env: what to learn in, from ``wnrl.rl.environments.vectorize``.
        norm: a key of ``wnrl.NORMS``.
        seed: seeds Python, NumPy and torch; the environments count on from
            ``first_env_seed(seed)``.
        device: where the network lives.

    Raises:
        UsageError: the norm does not exist, ``env`` does not fit the algorithm, no memory has room
            for a network or a buffer, or SB3 refuses an argument.
    """
    seen = env.observation_space
    check_spaces(config, env)
    name = policy_name(seen, getattr(config, "cell", "").capitalize())
    if name not in config.algorithm.policy_aliases:
        raise UsageError(f"{config.algorithm.__name__} has no policy for observations like {seen}")
    if env.num_envs != config.n_envs:
        raise UsageError(f"n_envs is {config.n_envs}, but env has {env.num_envs} environments")
    try:
        model = config.algorithm(
            policy=name,
            env=env,
            policy_kwargs={**config.policy_arguments(), **extractor(seen), "norm": norm},
            seed=seed,
            device=device,
            **config.algorithm_arguments(env.action_space),
        )
    except UsageError:
        raise
    except Exception as error:  # whatever SB3 and torch make of spaces, sizes and arguments
        reason = printable(error, 500) or type(error).__name__
        raise UsageError(f"the agent cannot be built: {reason}") from error
    env.seed(first_env_seed(seed))  # SB3 has seeded them with seed, seed + 1, ...
    return model


def check_spaces(config: Any, env: VecEnv) -> None:
    """Raise UsageError for what SB3 would not tell of an environment, or only when it trains."""
    seen, acted = env.observation_space, env.action_space
    check_observations(seen)
    observed = (("observations", part) for part in parts(seen).values())
    for word, space in (*observed, ("actions", acted)):
        if np.any(getattr(space, "start", 0)):  # which SB3 passes over
            raise UsageError(f"{word} must count from 0, got {space}: shift them in a wrapper")
    if isinstance(acted, spaces.Box) and 0 in acted.shape:
        raise UsageError(f"actions must hold a number or more, got {acted}")
    scaled_later = "buffer_size" in vars(config) and config.normalize != "none"
    if scaled_later and isinstance(seen, spaces.Discrete):
        raise UsageError(f"normalize {config.normalize!r} with a replay buffer is not for {seen}")
    masked = issubclass(config.algorithm, MaskablePPO) and not isinstance(acted, spaces.Box)
    if masked and not env.has_attr("action_masks"):
        needed = "a method action_masks, or action_mask, which is in its info too"
        raise UsageError(f"{config.algorithm.__name__} needs an environment with {needed}")
