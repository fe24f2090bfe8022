"""A saved agent of stable-baselines3 or sb3-contrib, ready to act in an environment."""

import pickle
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from gymnasium import spaces
from sb3_contrib import QRDQN, TQC, CrossQ, MaskablePPO, RecurrentPPO
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.crossq.policies import CrossQPolicy
from sb3_contrib.qrdqn.policies import QRDQNPolicy
from sb3_contrib.tqc.policies import TQCPolicy
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy

import wnrl.sb3  # noqa: F401 (registers the names of the policies)
from wnrl.errors import UsageError

# Which algorithm acts with a policy; the first that fits. A2C and TRPO act as PPO does.
ACTS: tuple[tuple[type[BasePolicy], type[BaseAlgorithm]], ...] = (
    (RecurrentActorCriticPolicy, RecurrentPPO),
    (MaskableActorCriticPolicy, MaskablePPO),
    (ActorCriticPolicy, PPO),
    (DQNPolicy, DQN),
    (QRDQNPolicy, QRDQN),
    (TQCPolicy, TQC),
    (SACPolicy, SAC),
    (TD3Policy, TD3),
    (CrossQPolicy, CrossQ),
)
# What unpickling and SB3 raise for a file that is damaged or something else.
BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, RuntimeError,
          AssertionError, ImportError, BadZipFile, pickle.UnpicklingError)  # fmt: skip


def load_agent(path: Path, device: torch.device | str = "cpu") -> BaseAlgorithm:
    """The agent that SB3's ``model.save`` wrote, of any algorithm in ``ACTS``.

    Such a file holds pickled objects: reading it runs code from it, so read only your own.

    Args:
        path: the zip file.
        device: where its network is to be.

    Raises:
        UsageError: there is no such file, it is damaged, or it holds no agent that acts.
    """
    if not path.is_file():
        raise UsageError(f"model {path} does not exist")
    try:
        data, parameters, _ = load_from_zip_file(path, device="cpu")
    except BROKEN as error:
        raise UsageError(f"model {path} is damaged, or no zip of SB3: {_line(error)}") from error
    if not data or not parameters or not isinstance(data.get("policy_class"), type):
        raise UsageError(f"model {path} holds no agent of SB3, or one whose policy is not here")
    policy = data["policy_class"]
    algorithm = _acting_with(policy)
    if algorithm is None:
        raise UsageError(f"model {path} has a {policy.__name__}, with which no algorithm here acts")
    # it only acts, and a replay buffer of full size could be larger than memory
    small: dict[str, Any] = {"buffer_size": 1} if issubclass(algorithm, OffPolicyAlgorithm) else {}
    try:
        return algorithm.load(path, device=device, **small)
    except BROKEN as error:
        raise UsageError(f"model {path} cannot be loaded: {_line(error)}") from error


def acting(algorithm: type[BaseAlgorithm]) -> type[BaseAlgorithm]:
    """What ``load_agent`` makes of an agent that ``algorithm`` has trained."""
    return _acting_with(next(iter(algorithm.policy_aliases.values()))) or algorithm


def _acting_with(policy: type[BasePolicy]) -> type[BaseAlgorithm] | None:
    return next((acts for kind, acts in ACTS if issubclass(policy, kind)), None)


def check_fits(model: BaseAlgorithm, env: VecEnv, path: Path, env_id: str) -> None:
    """Raises UsageError where the agent of ``path`` has other spaces than ``env``."""
    pairs = (
        ("observations", model.observation_space, env.observation_space),
        ("actions", model.action_space, env.action_space),
    )
    for what, its, theirs in pairs:
        if its != theirs:
            raise UsageError(
                f"model {path} does not fit env_id {env_id!r}: it has {what} {_text(its)}, "
                f"the environment {_text(theirs)}"
            )


def load_statistics(env: VecEnv, path: Path) -> VecNormalize:
    """``env`` with observations scaled by the statistics in ``path``, rewards as they are.

    Args:
        env: from ``agents.vectorize_for_evaluation``.
        path: what SB3's ``VecNormalize.save`` wrote; reading it runs code from it.

    Raises:
        UsageError: there is no such file, it is damaged, or of other observations.
    """
    if not path.is_file():
        raise UsageError(f"the statistics of observations, {path}, do not exist")
    try:
        normalizer = VecNormalize.load(str(path), env)
    except BROKEN as error:
        raise UsageError(f"{path} is damaged or does not fit: {_line(error)}") from error
    normalizer.training = normalizer.norm_reward = False
    return normalizer


def _text(space: spaces.Space[Any]) -> str:
    return " ".join(str(space).split())


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
