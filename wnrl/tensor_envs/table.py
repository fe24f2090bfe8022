"""The table of tensor environments."""

from collections.abc import Callable

from wnrl.tensor_envs.classic import CartPole
from wnrl.tensor_envs.core import TensorEnv

TENSOR_ENVS: dict[str, Callable[[], TensorEnv]] = {
    "CartPole-v1": CartPole,
}
"""From the id of the Gymnasium environment with the same dynamics to the one here."""
