"""Running statistics of observations and returns as a file of numbers, and back to SB3's wrapper.

SB3's own ``VecNormalize.save`` pickles the wrapper, and reading that runs code from the file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from wnrl.errors import UsageError, as_usage_error
from wnrl.runs import write_arrays

OPTIONS = ("norm_obs", "norm_reward", "clip_obs", "clip_reward", "gamma", "epsilon")
KEYS = "norm_obs_keys"
MOMENTS = ("mean", "var", "count")


def _moments(normalizer: VecNormalize) -> dict[str, RunningMeanStd]:
    """Return what holds running means, by the name that it has in a file."""
    scaled = normalizer.obs_rms if normalizer.norm_obs else {}
    if not isinstance(scaled, dict):
        return {"return": normalizer.ret_rms, "obs": scaled}
    return {"return": normalizer.ret_rms, **{f"obs/{key}": part for key, part in scaled.items()}}


def statistics_of(normalizer: VecNormalize) -> dict[str, Any]:
    """Return copies of the numbers in ``normalizer``, by name.

    ``return/mean``, ``return/var`` and ``return/count`` belong to discounted returns, ``obs/mean``
    and so on to observations, ``obs/<key>/mean`` and so on to a part of a Dict.
    """
    numbers = {name: np.asarray(getattr(normalizer, name)) for name in OPTIONS}
    if normalizer.norm_obs_keys is not None:
        numbers[KEYS] = np.asarray(normalizer.norm_obs_keys)
    for name, part in _moments(normalizer).items():
        numbers |= {f"{name}/{moment}": np.array(getattr(part, moment)) for moment in MOMENTS}
    return numbers


def with_statistics(env: VecEnv, numbers: Mapping[str, Any]) -> VecNormalize:
    """Return ``env`` in SB3's wrapper, with observations scaled and rewards as they are.

    The statistics do not change; to train on, set ``training`` and ``norm_reward``.

    Raises:
        UsageError: The numbers are of other observations.
    """
    what = f"statistics of observations do not fit {env.observation_space}"
    with as_usage_error(what, KeyError, ValueError, TypeError, AssertionError):
        options = {name: np.asarray(numbers[name]).item() for name in OPTIONS}
        keys = [str(key) for key in numbers[KEYS]] if KEYS in numbers else None
        normalizer = VecNormalize(env, training=False, norm_obs_keys=keys, **options)
        for name, part in _moments(normalizer).items():
            for moment in MOMENTS:
                value = np.array(numbers[f"{name}/{moment}"])
                if value.shape != np.shape(getattr(part, moment)):
                    raise ValueError(f"{name}/{moment} has shape {value.shape}")
                setattr(part, moment, value if value.ndim else value.item())
    normalizer.norm_reward = False
    return normalizer


def save_statistics(path: Path, numbers: Mapping[str, Any]) -> None:
    """Write what ``statistics_of`` returned as an ``.npz`` file, whole or not at all."""
    write_arrays(path, numbers)


def load_statistics(env: VecEnv, path: Path) -> VecNormalize:
    """Return ``with_statistics(env, ...)`` of what ``save_statistics`` wrote.

    Raises:
        UsageError: There is no such file, it is damaged, or of other observations.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            numbers = dict(archive)
    except Exception as error:  # of a damaged file, any part of the reader may stumble
        kinds = "neither a .npz of numbers nor a vecnormalize.pkl of SB3"
        raise UsageError(f"{path} holds no statistics: it is damaged, or {kinds}") from error
    return with_statistics(env, numbers)
