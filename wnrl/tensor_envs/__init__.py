"""Environments as torch code on ``(members, envs, ...)`` tensors, by Gymnasium's ids."""

from wnrl.arguments import guard
from wnrl.tensor_envs.classic import Acrobot, CartPole, MountainCar, MountainCarContinuous, Pendulum
from wnrl.tensor_envs.core import TensorEnv
from wnrl.tensor_envs.memory import DelayedMatch, RepeatPrevious, TMaze
from wnrl.tensor_envs.world import TENSOR_ENVS, WORLDS, World

__all__ = [
    "TENSOR_ENVS", "WORLDS", "Acrobot", "CartPole", "DelayedMatch", "MountainCar",
    "MountainCarContinuous", "Pendulum", "RepeatPrevious", "TMaze", "World", "make",
]  # fmt: skip


def make(env_id: str) -> TensorEnv:
    """Return the tensor environment with the dynamics of the Gymnasium environment ``env_id``.

    Args:
        env_id: a key of ``TENSOR_ENVS``, or the id or name of a ``World``.

    Raises:
        UsageError: there is none, or a dial of the world does not fit it.
    """
    return TENSOR_ENVS[env_id]() if env_id in TENSOR_ENVS else World.from_id(env_id).tensor_env()


guard(globals(), __all__)
