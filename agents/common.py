"""What all algorithms share: vector environments, schedules, the logger, the choice of policy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecNormalize,
    unwrap_vec_normalize,
)

from wnrl.errors import UsageError, check_positive

# Of environments: a run with seed k owns the numbers from k * SEED_STRIDE on; the starts of its
# evaluations are numbered from these places behind them.
SEED_STRIDE, CURVE_STARTS, FINAL_STARTS = 100_000, 50_000, 75_000

Factory = Callable[[], gym.Env[Any, Any]]
Schedule = Literal["constant", "linear"]


@dataclass(frozen=True)
class Agent:
    """One row of the table of algorithms."""

    config: type[Any]
    """The dataclass of its hyperparameters; its defaults are for tasks without a preset."""
    presets: Mapping[str, Any]
    """From an environment's id to tuned hyperparameters."""
    build: Callable[..., BaseAlgorithm]
    """``build(config, env, norm, seed, device, run_dir)`` gives the SB3 model."""

    def preset(self, env_id: str) -> Any:
        """The hyperparameters for ``env_id``: its preset, or the algorithm's defaults."""
        return self.presets.get(env_id, self.config())


def first_env_seed(seed: int) -> int:
    """The seed of a run's first environment to learn in; the others count on from it.

    Those of different runs stay apart, as do the starts of their evaluations, while counting on
    from the run's own seed would give neighbours all but one environment in common.
    """
    return SEED_STRIDE * seed


def vectorize(
    factory: Factory, n_envs: int, seed: int, normalize: bool = False, gamma: float = 0.99
) -> VecEnv:
    """Environments that step together, seeded, each with SB3's ``Monitor``.

    Args:
        factory: makes one environment.
        n_envs: how many.
        seed: of the first; the others count on from it.
        normalize: whether observations and returns are scaled by running statistics.
        gamma: discount of the returns that the rewards are scaled by.
    """
    check_positive(n_envs=n_envs)
    venv: VecEnv = DummyVecEnv([lambda: Monitor(factory()) for _ in range(n_envs)])
    if normalize:
        venv = VecNormalize(venv, gamma=gamma)
    venv.seed(seed)
    return venv


def vectorize_for_evaluation(factory: Factory, n_envs: int, training: VecEnv | None) -> VecEnv:
    """Environments to evaluate in: raw rewards, observations as the agent knows them.

    Args:
        factory: makes one environment.
        n_envs: how many.
        training: what the agent learns in; the statistics of its observations are used as they
            are at any time, and never updated from here.
    """
    venv = vectorize(factory, n_envs, seed=0)
    normalizer = None if training is None else unwrap_vec_normalize(training)
    if normalizer is not None:
        venv = VecNormalize(venv, training=False, norm_reward=False)
        venv.obs_rms = normalizer.obs_rms
    return venv


def schedule(value: float, kind: Schedule) -> float | LinearSchedule:
    """The value itself, or a line from it to zero at the end of training; both can be pickled."""
    return LinearSchedule(value, 0.0, 1.0) if kind == "linear" else value


def policy_name(space: spaces.Space[Any], recurrent: bool = False) -> str:
    """The name of the policy for an observation space: Cnn for images, MultiInput for a Dict."""
    family = "Mlp"
    if isinstance(space, spaces.Dict):
        family = "MultiInput"
    elif is_image_space(space):
        family = "Cnn"
    return f"WN{family}{'Lstm' if recurrent else ''}Policy"


def check_spaces(env: VecEnv, use_sde: bool) -> None:
    """Raises UsageError where an on-policy algorithm could not learn in ``env``."""
    seen, acted = env.observation_space, env.action_space
    if not isinstance(
        seen, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary | spaces.Dict
    ):
        raise UsageError(f"observations must be a Box, Dict or discrete space, got {seen}")
    if not isinstance(
        acted, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary
    ):
        raise UsageError(f"actions must be a Box or a discrete space, got {acted}")
    if use_sde and not isinstance(acted, spaces.Box):
        raise UsageError(f"use_sde needs continuous actions (a Box), got {acted}")


def check_sizes(name: str, sizes: tuple[int, ...]) -> None:
    """Raises UsageError unless all layer sizes are above zero."""
    if any(size <= 0 for size in sizes):
        raise UsageError(f"{name} must hold sizes above zero, got {sizes}")


def check_fraction(**values: float) -> None:
    """Raises UsageError for the first keyword whose value is outside [0, 1]."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise UsageError(f"{name} must be from 0 to 1, got {value!r}")
