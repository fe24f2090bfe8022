"""Environments: importing this package registers ours with Gymnasium."""

from envs.factory import EnvFactory, factory
from envs.minatar import GAMES, MinAtar, register_minatar
from envs.pixels import PIXELS, Pixels, register_pixels
from envs.tensor_view import TensorView
from envs.world import WorldWrapper, register_worlds

__all__ = [
    "GAMES",
    "PIXELS",
    "EnvFactory",
    "MinAtar",
    "Pixels",
    "TensorView",
    "WorldWrapper",
    "factory",
]

for _register in (register_pixels, register_minatar, register_worlds):
    _register()
