"""A saved agent of stable-baselines3 or sb3-contrib, ready to act in an environment."""

import pickle
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

import wnrl.sb3  # noqa: F401 (registers the names of the policies)
from wnrl.errors import UsageError, as_usage_error, first_line, printable
from wnrl.rl.models import plain_policy

Algorithms = Iterable[type[BaseAlgorithm]]
Device = torch.device | str
STAND_INS: dict[str, Any] = {
    **dict.fromkeys(("learning_rate", "clip_range"), 0.0),
    **dict.fromkeys(("lr_schedule", "exploration_schedule"), float),
    **dict.fromkeys(
        ("clip_range_vf", "action_noise", "replay_buffer_class", "rollout_buffer_class",
         "_last_obs", "_last_original_obs", "_last_episode_starts", "ep_info_buffer"), None),
}  # fmt: skip
"""What an agent needs only to learn, in the place of objects that cannot be read."""


def load_agent(path: Path, algorithms: Algorithms, device: Device, env: VecEnv) -> BaseAlgorithm:
    """Return the agent that SB3's ``model.save`` wrote.

    Such a file holds pickled objects: reading it runs code from it, so read only your own.

    Args:
        path: the zip file.
        algorithms: those of which it may be.
        device: where its network is to be.
        env: where it is to act; its spaces stand in for those of a zip of SB3 1, which are of gym,
            or of one that another Python wrote.

    Raises:
        UsageError: there is no such file, it is damaged, or it holds no agent that acts there.
    """
    if not path.is_file():
        raise UsageError(f"model {path} is no file, or does not exist")
    try:
        model = _load(path, algorithms, device, {})
        for word in ("observation_space", "action_space"):
            trained, here = getattr(model, word), getattr(env, word)
            if trained != here:
                differs = f"its {word} is {printable(trained)}, not {printable(here)}"
                raise UsageError(f"model {path} does not fit the environment: {differs}")
        return model
    except UsageError:
        raise
    except Exception as error:  # whatever unpickling and SB3 raise for what is damaged or old
        reason = first_line(error)
    obs, actions = env.observation_space, env.action_space
    stand_ins = {**STAND_INS, "observation_space": obs, "action_space": actions}
    fit = f"observations {printable(obs)} and actions {printable(actions)}"
    what = f"model {path} is damaged, no zip of SB3, or does not fit {fit}"
    with as_usage_error(what, Exception, say=first_line):
        model = _load(path, algorithms, device, stand_ins)
    told = f"model {path} was written by another SB3 or Python ({reason})"
    print(f"{told}: what it needs only to learn is left out", file=sys.stderr)
    return model


def _load(path: Path, algorithms: Algorithms, device: Device, stand_ins: Any) -> BaseAlgorithm:
    data, parameters, _ = load_from_zip_file(path, device="cpu", custom_objects=stand_ins)
    if not data or not parameters or not isinstance(data.get("policy_class"), type):
        raise UsageError(f"model {path} holds no agent of SB3, or one whose policy is not here")
    policy = data["policy_class"]
    algorithm = acting_with(policy, algorithms)
    if algorithm is None:
        raise UsageError(f"model {path} has {policy.__name__}, with which no algorithm here acts")
    # it only acts, and a replay buffer of full size could be larger than memory
    small: dict[str, Any] = {"buffer_size": 1} if issubclass(algorithm, OffPolicyAlgorithm) else {}
    return algorithm.load(path, device=device, custom_objects=stand_ins, **small)


def acting_with(policy: type[BasePolicy], algorithms: Algorithms) -> type[BaseAlgorithm] | None:
    """Return the algorithm that acts with a policy: the first whose own one is its next of kin.

    Algorithms that share a policy, as PPO and A2C do, act alike.
    """
    by_policy = {plain_policy(algorithm): algorithm for algorithm in reversed([*algorithms])}
    return next((by_policy[kind] for kind in policy.__mro__ if kind in by_policy), None)


def load_pickled_statistics(env: VecEnv, path: Path) -> VecNormalize:
    """Return ``env`` with observations scaled by the statistics in ``path``, rewards as they are.

    Args:
        env: from ``vectorize_for_evaluation``.
        path: what SB3's ``VecNormalize.save`` wrote; reading it runs code from it.

    Raises:
        UsageError: there is no such file, it is damaged, or of other observations.
    """
    # Unpickling and SB3 may raise anything.
    what = f"{path} is not there, damaged or does not fit"
    with as_usage_error(what, Exception, say=first_line), path.open("rb") as file:
        normalizer = _OfGym(file).load()
        if not isinstance(normalizer, VecNormalize):
            raise TypeError(f"it holds a {type(normalizer).__name__}, no VecNormalize")
        normalizer.set_venv(env)
    normalizer.training = normalizer.norm_reward = False
    return normalizer


class _OfGym(pickle.Unpickler):
    """Reads spaces that SB3 1 pickled, which are of gym, as Gymnasium's, which know their state."""

    def find_class(self, module: str, name: str) -> Any:
        package, dot, rest = module.partition(".")
        return super().find_class(f"gymnasium{dot}{rest}" if package == "gym" else module, name)
