"""From an environment's id to a function that makes it, checked before anything runs."""

import importlib
import warnings
from dataclasses import dataclass
from typing import Any

import gymnasium as gym

from wnrl.errors import UsageError, check_choice

# Extras of this project, each of which is also a part of the names of the modules that need it.
EXTRAS = ("box2d", "mujoco")


@dataclass(frozen=True)
class EnvFactory:
    """Makes new instances of one environment; can be pickled and sent to another process.

    Raises:
        UsageError: no environment has that id, it cannot be made here, or its episodes have no
            time limit, so that an agent that never ends one could not be evaluated.
    """

    env_id: str
    """Gymnasium's id, ours included; ``module:Env-v0`` imports a module that registers it."""

    def __post_init__(self) -> None:
        if ":" in self.env_id:
            self._import()
        check_choice("env_id", self._registered_id, gym.registry)
        with warnings.catch_warnings():  # Gymnasium's, of a newer version
            warnings.simplefilter("ignore", DeprecationWarning)
            self().close()
        if gym.spec(self._registered_id).max_episode_steps is None:
            raise UsageError(
                f"env_id {self.env_id!r} has no time limit: its episodes may never end; register "
                "it with max_episode_steps"
            )

    def __call__(self) -> gym.Env[Any, Any]:
        """A new environment."""
        try:
            return gym.make(self.env_id)
        except (ImportError, gym.error.Error) as error:
            raise self._impossible(error) from error

    @property
    def _registered_id(self) -> str:
        return self.env_id.rpartition(":")[2]

    def _import(self) -> None:
        try:
            importlib.import_module(self.env_id.rpartition(":")[0])
        except (ImportError, ValueError, TypeError) as error:  # the last two: no name of a module
            raise UsageError(f"env_id {self.env_id!r}: {_first_line(error)}") from error

    def _impossible(self, error: Exception) -> UsageError:
        entry_point = gym.spec(self._registered_id).entry_point
        module = entry_point.lower() if isinstance(entry_point, str) else ""
        extra = next((extra for extra in EXTRAS if extra in module), None)
        if extra is None:
            return UsageError(f"env_id {self.env_id!r} cannot be made: {_first_line(error)}")
        return UsageError(
            f"env_id {self.env_id!r} needs a package that is missing: pip install -e '.[{extra}]'"
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def factory(env_id: str) -> EnvFactory:
    """A function that makes ``env_id``.

    Raises:
        UsageError: no environment has that id (the message has the nearest one), it cannot be made
            here (the message says which extra it needs, or why not), or it has no time limit.
    """
    return EnvFactory(env_id)
