"""Running statistics of observations and returns as a file of numbers, and back to SB3's wrapper.

SB3's own ``VecNormalize.save`` pickles the wrapper, and reading that runs code from the file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from wnrl.errors import UsageError, printable
from wnrl.runs import whole_file

OPTIONS = ("norm_obs", "norm_reward", "clip_obs", "clip_reward", "gamma", "epsilon")
KEYS = "norm_obs_keys"


def statistics_of(normalizer: VecNormalize) -> dict[str, Any]:
    """Return copies of the numbers in ``normalizer``, by name.

    ``obs_mean``, ``obs_var`` and ``obs_count`` belong to observations, with ``/<key>`` behind them
    to those in a Dict; ``return_mean`` and so on to discounted returns.
    """
    numbers = {name: np.asarray(getattr(normalizer, name)) for name in OPTIONS}
    moments = {"return": normalizer.ret_rms}
    if normalizer.norm_obs and isinstance(normalizer.obs_rms, dict):
        numbers[KEYS] = np.asarray(list(normalizer.obs_rms))
        moments |= {f"obs/{key}": part for key, part in normalizer.obs_rms.items()}
    elif normalizer.norm_obs:
        moments["obs"] = normalizer.obs_rms
    for name, part in moments.items():
        what, _, key = name.partition("/")
        for moment in ("mean", "var", "count"):
            place = f"{what}_{moment}/{key}" if key else f"{what}_{moment}"
            numbers[place] = np.array(getattr(part, moment))
    return numbers


def with_statistics(env: VecEnv, numbers: Mapping[str, Any]) -> VecNormalize:
    """Return ``env`` in SB3's wrapper, with observations scaled and rewards as they are.

    The statistics do not change; to train on, set ``training`` and ``norm_reward``.

    Raises:
        UsageError: The numbers are of other observations.
    """
    try:
        options = {name: np.asarray(numbers[name]).item() for name in OPTIONS}
        keys = [str(key) for key in numbers[KEYS]] if KEYS in numbers else None
        normalizer = VecNormalize(env, training=False, norm_obs_keys=keys, **options)
        _set_moments(normalizer.ret_rms, numbers, "return", "")
        if normalizer.norm_obs:
            scaled = normalizer.obs_rms
            for key, part in (scaled if isinstance(scaled, dict) else {"": scaled}).items():
                _set_moments(part, numbers, "obs", key)
    except (KeyError, ValueError, TypeError, AssertionError) as error:
        raise UsageError(
            f"statistics of observations do not fit {env.observation_space}: {printable(error)}"
        ) from error
    normalizer.norm_reward = False
    return normalizer


def _set_moments(part: RunningMeanStd, numbers: Mapping[str, Any], what: str, key: str) -> None:
    for moment in ("mean", "var", "count"):
        value = np.array(numbers[f"{what}_{moment}/{key}" if key else f"{what}_{moment}"])
        if value.shape != np.shape(getattr(part, moment)):
            raise ValueError(f"{what}_{moment} has shape {value.shape}")
        setattr(part, moment, value if moment != "count" else value.item())


def save_statistics(path: Path, numbers: Mapping[str, Any]) -> None:
    """Write what ``statistics_of`` returned as an ``.npz`` file, whole or not at all."""
    with whole_file(path) as file:
        np.savez(file, allow_pickle=False, **numbers)


def load_statistics(env: VecEnv, path: Path) -> VecNormalize:
    """Return ``with_statistics(env, ...)`` of what ``save_statistics`` wrote.

    Raises:
        UsageError: There is no such file, it is damaged, or of other observations.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            numbers = dict(archive)
    except Exception as error:  # of a damaged file, any part of the reader may stumble
        raise UsageError(f"{path} holds no statistics: {printable(error)}") from error
    return with_statistics(env, numbers)
