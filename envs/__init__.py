"""Environments: importing this package registers ours with Gymnasium."""

from envs.factory import EnvFactory, factory
from envs.minatar import GAMES, MinAtar
from envs.tensor_view import TensorView
from envs.world import WorldWrapper, register_worlds

__all__ = ["GAMES", "EnvFactory", "MinAtar", "TensorView", "WorldWrapper", "factory"]

register_worlds()  # last: tensor environments that are registered already stay as they are
