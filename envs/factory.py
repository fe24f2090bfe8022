"""From an environment's id to a function that makes it, checked before anything runs."""

import importlib
import re
import sys
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from envs.world import VIEW, register_world
from wnrl.arguments import shown
from wnrl.errors import UsageError, as_usage_error, check_choice, did_you_mean, first_line, in_words
from wnrl.limits import Limited, Whole
from wnrl.tensor_envs import World

# From a part of a module's name to the extra of this project that it needs.
EXTRAS = {"box2d": "box2d", "mujoco": "mujoco", "ale_py": "atari", "minatar": "minatar"}
OF_GYMNASIUM = (PassiveEnvChecker, OrderEnforcing, TimeLimit)
"""The wrappers that ``gymnasium.make`` puts around an environment."""
RETURNED = {"reset": "(obs, info)", "step": "(obs, reward, terminated, truncated, info)"}
ATARI = re.compile(r"^ALE/|NoFrameskip-v\d+$")


@dataclass(frozen=True)
class EnvFactory(Limited):
    """Makes new instances of one environment; can be pickled and sent to another process.

    Atari games come with every frame (``frameskip=1``), whatever their id says of it: what skips
    frames has to see them all, for the maximum of two.

    Raises:
        UsageError: no environment has that id, or it cannot be made here, with these arguments, or
            drawn as asked.
    """

    env_id: str
    """Gymnasium's id, ours and those of worlds included; ``module:Env-v0`` imports a module that
    registers it, which may stand in the current folder."""
    render_mode: str | None = None
    """rgb_array for environments that can be filmed."""
    max_episode_steps: Whole | None = None
    """Steps after which episodes are cut, in the place of the environment's own limit."""
    env_kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Arguments of the environment."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in {"render_mode", "max_episode_steps"} & self.env_kwargs.keys():
            raise UsageError(f"env_kwargs: {name} is set by its own name")
        self._register()
        check_choice("env_id", self._registered_id, gym.registry)
        if self.env_kwargs and gym.spec(self._registered_id).entry_point == VIEW:
            told = f"env_id {self.env_id!r} takes no env_kwargs, got {dict(self.env_kwargs)}"
            raise UsageError(f"{told}: its dials stand in the id, as in TMaze-memory40-v0")
        with warnings.catch_warnings():  # Gymnasium's, of a newer version
            warnings.simplefilter("ignore", DeprecationWarning)
            env = self._make(None)
            self._try(env)
            with suppress(Exception):  # it is told where the environment has been used
                env.close()
        if self.render_mode not in (None, *env.metadata.get("render_modes", ())):
            raise UsageError(f"env_id {self.env_id!r} cannot be drawn as {self.render_mode}")

    def __call__(self) -> gym.Env[Any, Any]:
        """A new environment."""
        return self._make(self.render_mode)

    def _make(self, render_mode: str | None) -> gym.Env[Any, Any]:
        self._register()  # this may be another process
        module = str(gym.spec(self._registered_id).entry_point)
        options = {**({"frameskip": 1} if module.startswith("ale_py") else {}), **self.env_kwargs}
        if render_mode is not None:
            options["render_mode"] = render_mode
        try:
            return gym.make(self.env_id, max_episode_steps=self.max_episode_steps, **options)
        except (ImportError, gym.error.Error) as error:
            raise self._impossible(error) from error
        except (Exception, SystemExit) as error:  # others' code may raise anything
            raise self._refused("be made", error) from error

    def _try(self, env: gym.Env[Any, Any]) -> None:
        """Reset and step, which is where an environment may look at its arguments."""
        while isinstance(env, OF_GYMNASIUM):  # which say in other words what is wrong, or warn
            env = env.env
        masked = hasattr(env, "action_masks")  # and may refuse the step
        for method in list(RETURNED)[: 1 if masked else 2]:
            try:
                env.action_space.seed(0)
                answer = _reset(env) if method == "reset" else env.step(env.action_space.sample())
                _check_answer(method, answer, env.observation_space)
            except (Exception, SystemExit) as error:
                raise self._refused(method, error) from error

    def _refused(self, verb: str, error: BaseException) -> UsageError:
        given = f" with env_kwargs {dict(self.env_kwargs)}" if self.env_kwargs else ""
        return UsageError(f"env_id {self.env_id!r} cannot {verb}{given}: {in_words(error)}")

    def drawn(self) -> "EnvFactory | None":
        """Return what makes the environment to be filmed; None where it cannot be drawn."""
        with suppress(UsageError):
            return replace(self, render_mode="rgb_array")
        return None

    @property
    def _registered_id(self) -> str:
        return self.env_id.rpartition(":")[2]

    def _register(self) -> None:
        """Import what registers the environment, and register the world that its id describes."""
        module, colon, name = self.env_id.rpartition(":")
        if colon:
            if (here := str(Path.cwd())) not in sys.path:
                sys.path.append(here)
            kinds = Exception, SystemExit  # others' code may raise anything
            with as_usage_error(f"env_id {self.env_id!r}", *kinds, say=in_words):
                importlib.import_module(module)
        elif ATARI.search(World.from_id(self.env_id).base):
            try:
                importlib.import_module("ale_py")  # which registers its games
            except ImportError as error:
                raise self._needs("atari") from error
        register_world(name)
        if colon and name not in gym.registry:
            raise UsageError(
                f"env_id {self.env_id!r}: module {module} registers no environment {name!r}"
                f"{did_you_mean(name, gym.registry)}"
            )

    def _impossible(self, error: Exception) -> UsageError:
        entry_point = gym.spec(self._registered_id).entry_point
        module = entry_point.lower() if isinstance(entry_point, str) else ""
        extra = next((extra for part, extra in EXTRAS.items() if part in module), None)
        if extra is None:
            return UsageError(f"env_id {self.env_id!r} cannot be made: {first_line(error)}")
        return self._needs(extra)

    def _needs(self, extra: str) -> UsageError:
        return UsageError(
            f"env_id {self.env_id!r} needs a package that is missing: pip install 'wnrl[{extra}]'"
        )


def _reset(env: gym.Env[Any, Any]) -> Any:
    """Reset without a seed; with one where the environment wants it, as a run's first reset has."""
    try:
        return env.reset(seed=None)
    except (Exception, SystemExit):
        return env.reset(seed=0)


def _check_answer(method: str, answer: Any, space: gym.Space[Any]) -> None:
    """Raise UsageError unless ``answer`` has the parts that Gymnasium's ``method`` returns."""
    returned = RETURNED[method]
    if not isinstance(answer, tuple) or len(answer) != returned.count(",") + 1:
        got = f"{len(answer)} values" if isinstance(answer, tuple) else shown(answer)
        raise UsageError(f"{method} must return {returned}, got {got}")
    parts = space.spaces if isinstance(space, gym.spaces.Dict) else {"": space}
    for name, part in parts.items():
        shape = np.shape(answer[0][name] if name else answer[0])
        if part.shape not in (None, shape):
            raise UsageError(f"observations must have shape {part.shape}, {method} gives {shape}")
    if method == "step" and not isinstance(answer[1], SupportsFloat):
        raise UsageError(f"rewards must be numbers, got {shown(answer[1])}")


factory = EnvFactory
"""What makes an environment, for its id and what else ``EnvFactory`` is told."""
