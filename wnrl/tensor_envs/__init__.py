"""Environments as torch code on ``(members, envs, ...)`` tensors, by Gymnasium's ids."""

from wnrl.arguments import guard
from wnrl.errors import check_choice
from wnrl.tensor_envs.classic import Acrobot, CartPole, MountainCar, MountainCarContinuous, Pendulum
from wnrl.tensor_envs.core import TensorEnv
from wnrl.tensor_envs.memory import DelayedMatch, RepeatPrevious, TMaze
from wnrl.tensor_envs.table import TENSOR_ENVS

__all__ = [
    "TENSOR_ENVS",
    "Acrobot",
    "CartPole",
    "DelayedMatch",
    "MountainCar",
    "MountainCarContinuous",
    "Pendulum",
    "RepeatPrevious",
    "TMaze",
    "make",
]


def make(env_id: str) -> TensorEnv:
    """Return the tensor environment with the dynamics of the Gymnasium environment ``env_id``.

    Raises:
        UsageError: there is none.
    """
    return TENSOR_ENVS[check_choice("env_id", env_id, TENSOR_ENVS)]()


guard(globals(), __all__)
