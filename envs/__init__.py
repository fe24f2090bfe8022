"""Environments: importing this package registers ours with Gymnasium."""

from envs.factory import EnvFactory, factory
from envs.velocity import NO_VELOCITY, MaskVelocity, register_no_velocity

__all__ = ["NO_VELOCITY", "EnvFactory", "MaskVelocity", "factory"]

register_no_velocity()
