"""A saved agent of stable-baselines3 or sb3-contrib, ready to act in an environment."""

import pickle
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

import wnrl.sb3  # noqa: F401 (registers the names of the policies)
from wnrl.errors import UsageError, printable

# What unpickling and SB3 raise for a file that is damaged or something else.
BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, RuntimeError,
          AssertionError, ImportError, BadZipFile, pickle.UnpicklingError)  # fmt: skip
STAND_INS: dict[str, Any] = {
    **dict.fromkeys(("learning_rate", "clip_range"), 0.0),
    **dict.fromkeys(("lr_schedule", "exploration_schedule"), float),
    **dict.fromkeys(
        ("clip_range_vf", "action_noise", "replay_buffer_class", "rollout_buffer_class",
         "_last_obs", "_last_original_obs", "_last_episode_starts", "ep_info_buffer"), None),
}  # fmt: skip
"""What an agent needs only to learn, in the place of objects that cannot be read."""


def load_agent(
    path: Path,
    algorithms: Iterable[type[BaseAlgorithm]],
    device: torch.device | str = "cpu",
    env: VecEnv | None = None,
) -> BaseAlgorithm:
    """Return the agent that SB3's ``model.save`` wrote.

    Such a file holds pickled objects: reading it runs code from it, so read only your own.

    Args:
        path: the zip file.
        algorithms: those of which it may be; MaskablePPO is known besides.
        device: where its network is to be.
        env: where it is to act; its spaces stand in for those of a zip of SB3 1, which are of gym,
            or of one that another Python wrote.

    Raises:
        UsageError: there is no such file, it is damaged, or it holds no agent that acts.
    """
    if not path.is_file():
        raise UsageError(f"model {path} is no file, or does not exist")
    try:
        return _load(path, algorithms, device, {})
    except UsageError as error:
        if env is None or not isinstance(error.__cause__, BROKEN):
            raise
        stand_ins = {**STAND_INS, "observation_space": env.observation_space}
        model = _load(path, algorithms, device, stand_ins | {"action_space": env.action_space})
        print(
            f"model {path} was written by another SB3 or Python ({_reason(error.__cause__)}): "
            "what it needs only to learn is left out",
            file=sys.stderr,
        )
        return model


def _load(
    path: Path,
    algorithms: Iterable[type[BaseAlgorithm]],
    device: torch.device | str,
    stand_ins: dict[str, Any],
) -> BaseAlgorithm:
    try:
        data, parameters, _ = load_from_zip_file(path, device="cpu", custom_objects=stand_ins)
    except BROKEN as error:
        raise UsageError(f"model {path} is damaged, or no zip of SB3: {_reason(error)}") from error
    if not data or not parameters or not isinstance(data.get("policy_class"), type):
        raise UsageError(f"model {path} holds no agent of SB3, or one whose policy is not here")
    policy = data["policy_class"]
    algorithm = acting_with(policy, algorithms)
    if algorithm is None:
        raise UsageError(f"model {path} has {policy.__name__}, with which no algorithm here acts")
    # it only acts, and a replay buffer of full size could be larger than memory
    small: dict[str, Any] = {"buffer_size": 1} if issubclass(algorithm, OffPolicyAlgorithm) else {}
    try:
        return algorithm.load(path, device=device, custom_objects=stand_ins, **small)
    except BROKEN as error:
        told = "cannot be loaded"
        if stand_ins:
            obs, actions = stand_ins["observation_space"], stand_ins["action_space"]
            told = f"does not fit observations {printable(obs)} and actions {printable(actions)}"
        raise UsageError(f"model {path} {told}: {_reason(error)}") from error


def acting_with(
    policy: type[BasePolicy], algorithms: Iterable[type[BaseAlgorithm]]
) -> type[BaseAlgorithm] | None:
    """Return the algorithm that acts with a policy: the first whose own one is its next of kin.

    Algorithms that share a policy, as PPO and A2C do, act alike.
    """
    by_policy: dict[type[BasePolicy], type[BaseAlgorithm]] = {}
    known: list[type[BaseAlgorithm]] = [*algorithms, MaskablePPO]
    for algorithm in known:
        by_policy.setdefault(next(iter(algorithm.policy_aliases.values())), algorithm)
    return next((by_policy[kind] for kind in policy.__mro__ if kind in by_policy), None)


def check_fits(model: BaseAlgorithm, env: VecEnv, path: Path, env_id: str) -> None:
    """Raise UsageError where the agent of ``path`` has other spaces than ``env``."""
    pairs = (
        ("observations", model.observation_space, env.observation_space),
        ("actions", model.action_space, env.action_space),
    )
    for word, trained, here in pairs:
        if trained != here:
            raise UsageError(
                f"model {path} does not fit env_id {env_id!r}: it has {word} {printable(trained)}, "
                f"the environment {printable(here)}{_stack_hint(trained, here)}"
            )


def _stack_hint(trained: spaces.Space[Any], here: spaces.Space[Any]) -> str:
    """Return what to do where the agent's observations are several of the environment's."""
    shapes = trained.shape or (), here.shape or ()
    ratios = [a / b for a, b in zip(*shapes, strict=False) if a != b]
    stacked = len(shapes[0]) == len(shapes[1]) and len(ratios) == 1 and ratios[0].is_integer()
    return f"; with --frame-stack {ratios[0]:.0f} it may fit" if stacked else ""


def load_pickled_statistics(env: VecEnv, path: Path) -> VecNormalize:
    """Return ``env`` with observations scaled by the statistics in ``path``, rewards as they are.

    Args:
        env: from ``vectorize_for_evaluation``.
        path: what SB3's ``VecNormalize.save`` wrote; reading it runs code from it.

    Raises:
        UsageError: there is no such file, it is damaged, or of other observations.
    """
    if not path.is_file():
        raise UsageError(f"the statistics of observations, {path}, do not exist")
    try:
        with path.open("rb") as file:
            normalizer = _OfGym(file).load()
        if not isinstance(normalizer, VecNormalize):
            raise TypeError(f"it holds a {type(normalizer).__name__}, no VecNormalize")
        normalizer.set_venv(env)
    except BROKEN as error:
        raise UsageError(f"{path} is damaged or does not fit: {_reason(error)}") from error
    normalizer.training = normalizer.norm_reward = False
    return normalizer


class _OfGym(pickle.Unpickler):
    """Reads spaces that SB3 1 pickled, which are of gym, as Gymnasium's, which know their state."""

    def find_class(self, module: str, name: str) -> Any:
        package, dot, rest = module.partition(".")
        return super().find_class(f"gymnasium{dot}{rest}" if package == "gym" else module, name)


def _reason(error: BaseException) -> str:
    return printable(error) or type(error).__name__
