"""From an environment's id to a function that makes it, checked before anything runs."""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator
from gymnasium.error import DependencyNotInstalled

from wnrl.errors import UsageError, check_choice

# Extras of this project, each of which is also a part of the names of the modules that need it.
EXTRAS = ("box2d", "mujoco")


@dataclass(frozen=True)
class EnvFactory:
    """Makes new instances of one environment; can be pickled and sent to another process.

    Raises:
        UsageError: no environment has that id, or a package that it needs is not installed.
    """

    env_id: str
    """Gymnasium's id, ours included."""

    def __post_init__(self) -> None:
        check_choice("env_id", self.env_id, gym.registry)
        entry_point = gym.spec(self.env_id).entry_point
        try:
            if isinstance(entry_point, str):
                load_env_creator(entry_point)
        except (ImportError, DependencyNotInstalled) as error:
            raise self._missing(error) from error

    def __call__(self) -> gym.Env[Any, Any]:
        """A new environment."""
        try:
            return gym.make(self.env_id)
        except (ImportError, DependencyNotInstalled) as error:
            raise self._missing(error) from error

    def _missing(self, error: Exception) -> UsageError:
        entry_point = str(gym.spec(self.env_id).entry_point).lower()
        extra = next((extra for extra in EXTRAS if extra in entry_point), None)
        reason = str(error).strip().splitlines()[0]
        install = f"pip install -e '.[{extra}]'" if extra else reason
        return UsageError(f"env_id {self.env_id!r} needs a package that is missing: {install}")


def factory(env_id: str) -> EnvFactory:
    """A function that makes ``env_id``.

    Raises:
        UsageError: no environment has that id (the message has the nearest one), or a package that
            it needs is not installed (the message says which extra has it).
    """
    return EnvFactory(env_id)
