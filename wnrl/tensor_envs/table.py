"""The table of tensor environments."""

from collections.abc import Callable

from wnrl.tensor_envs.classic import Acrobot, CartPole, MountainCar, MountainCarContinuous, Pendulum
from wnrl.tensor_envs.core import TensorEnv
from wnrl.tensor_envs.memory import DelayedMatch, RepeatPrevious, TMaze
from wnrl.tensor_envs.minatar_asterix import Asterix
from wnrl.tensor_envs.minatar_breakout import Breakout
from wnrl.tensor_envs.minatar_freeway import Freeway
from wnrl.tensor_envs.minatar_seaquest import Seaquest
from wnrl.tensor_envs.minatar_space_invaders import SpaceInvaders

TENSOR_ENVS: dict[str, Callable[[], TensorEnv]] = {
    "CartPole-v1": CartPole,
    "Acrobot-v1": Acrobot,
    "MountainCar-v0": MountainCar,
    "MountainCarContinuous-v0": MountainCarContinuous,
    "Pendulum-v1": Pendulum,
    "TMaze-v0": TMaze,
    "RepeatPrevious-v0": RepeatPrevious,
    "DelayedMatch-v0": DelayedMatch,
    "MinAtarAsterix-v1": Asterix,
    "MinAtarBreakout-v1": Breakout,
    "MinAtarFreeway-v1": Freeway,
    "MinAtarSeaquest-v1": Seaquest,
    "MinAtarSpaceInvaders-v1": SpaceInvaders,
}
"""From the id of the Gymnasium environment with the same dynamics to the one here."""
