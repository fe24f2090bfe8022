"""Environments: importing this package registers ours with Gymnasium."""

from envs.factory import EnvFactory, factory
from envs.memory import TMaze, register_memory
from envs.minatar import GAMES, MinAtar, register_minatar
from envs.noise import NOISY, GaussianNoise, register_noisy
from envs.pixels import PIXELS, Pixels, register_pixels
from envs.velocity import NO_VELOCITY, MaskVelocity, register_no_velocity

__all__ = [
    "GAMES",
    "NOISY",
    "NO_VELOCITY",
    "PIXELS",
    "EnvFactory",
    "GaussianNoise",
    "MaskVelocity",
    "MinAtar",
    "Pixels",
    "TMaze",
    "factory",
]

for _register in (
    register_no_velocity,
    register_noisy,
    register_pixels,
    register_memory,
    register_minatar,
):
    _register()
