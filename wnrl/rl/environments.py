"""The environments of a run: how they step together, and the seeds that are theirs."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, SupportsFloat, cast

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common import vec_env
from stable_baselines3.common.atari_wrappers import AtariWrapper
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from wnrl.errors import NonFiniteError, UsageError, check_choice, check_positive, in_words
from wnrl.runs import Stopped

# Of environments: a run with seed k owns the numbers from k * SEED_STRIDE on; the starts of its
# evaluations are numbered from these places behind them.
SEED_STRIDE, CURVE_STARTS, FINAL_STARTS = 100_000, 50_000, 75_000

BASIC = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
ATARI_FRAMES = 4  # that are one observation
LONGEST_EPISODE = 10_000
"""Steps after which an evaluation cuts an episode, where the environment has no limit itself."""

Factory = Callable[[], gym.Env[Any, Any]]


def first_env_seed(seed: int) -> int:
    """Return the seed of a run's first environment to learn in; the others count on from it.

    Those of different runs stay apart, as do the starts of their evaluations, while counting on
    from the run's own seed would give neighbours all but one environment in common.
    """
    return SEED_STRIDE * seed


def vectorize(
    factory: Factory,
    n_envs: int,
    seed: int,
    normalize: str = "none",
    gamma: float = 0.99,
    frame_stack: int | None = None,
    *,
    subprocesses: bool = False,
) -> VecEnv:
    """Return environments that step together, seeded, each with a ``Monitor``.

    Atari games get ``Atari``, whose preprocessing is that of Mnih et al. (2015), and four stacked
    frames; ``Monitor`` stands in front, so that logs and evaluations have whole games and their own
    scores. Images become channel-first.

    Args:
        factory: makes one environment.
        n_envs: how many.
        seed: of the first; the others count on from it.
        normalize: what is scaled by running statistics: none, obs (images excepted), reward or
            both.
        gamma: discount of the returns that the rewards are scaled by.
        frame_stack: observations that are stacked to one; None: 4 of an Atari game, else 1.
        subprocesses: whether each environment has a process of its own.

    Raises:
        UsageError: A number is not above zero, or the observations cannot be learned from, or not
            be stacked.
    """
    check_choice("normalize", normalize, ("none", "obs", "reward", "both"))
    venv = _side_by_side(factory, n_envs, frame_stack, subprocesses)
    if normalize != "none":
        keys = _NO_OBS if normalize == "reward" else _vectors(venv.observation_space)
        venv = VecNormalize(venv, norm_reward=normalize != "obs", gamma=gamma, **keys)
    venv.seed(seed)
    return venv


def vectorize_for_evaluation(
    factory: Factory, n_envs: int, training: VecEnv | None, frame_stack: int | None = None
) -> VecEnv:
    """Return environments to evaluate in: raw rewards, observations as the agent knows them.

    Args:
        factory: makes one environment.
        n_envs: how many.
        training: what the agent learns in; the statistics of its observations are used as they
            are at any time, and never updated from here.
        frame_stack: as ``vectorize`` has it.
    """
    venv = _side_by_side(lambda: _bounded(factory()), n_envs, frame_stack)
    normalizer = None if training is None else vec_env.unwrap_vec_normalize(training)
    if normalizer is not None:
        scaled = {name: getattr(normalizer, name) for name in _NO_OBS}
        venv = VecNormalize(venv, training=False, norm_reward=False, **scaled)
        if normalizer.norm_obs:
            venv.obs_rms = normalizer.obs_rms
    venv.seed(0)
    return venv


def _side_by_side(
    factory: Factory, n_envs: int, frame_stack: int | None, subprocesses: bool = False
) -> VecEnv:
    """Return the environments with all that changes observations, but for running statistics."""
    check_positive(n_envs=n_envs, frame_stack=1 if frame_stack is None else frame_stack)
    kind = vec_env.SubprocVecEnv if subprocesses else vec_env.DummyVecEnv

    def make() -> gym.Env[Any, Any]:
        if subprocesses:  # which a terminal sends these too; the run still saves, and ends them
            for number in (signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
        return _prepared(Monitor(factory()))

    with told("learned from"):
        try:
            inner = kind([make] * n_envs)
        except (NotImplementedError, TypeError):  # SB3's of a Dict in a Dict, of a Text
            with closing(factory()) as env:
                check_observations(env.observation_space)
            raise
    venv: VecEnv = Sound(inner)
    if frame_stack is None:
        frame_stack = ATARI_FRAMES if inner.env_is_wrapped(Atari, indices=[0])[0] else 1
    if frame_stack > 1:
        seen = venv.observation_space
        check_observations(seen)
        if not all(isinstance(part, spaces.Box) for part in parts(seen).values()):
            raise UsageError(f"frame_stack {frame_stack} needs observations in a Box, got {seen}")
        venv = vec_env.VecFrameStack(venv, frame_stack)
    images = [part for part in parts(venv.observation_space).values() if is_image_space(part)]
    if images and not any(is_image_space_channels_first(cast(Any, image)) for image in images):
        venv = ChannelsFirst(venv)  # here, because SB3 would do it behind VecNormalize
    return venv


def check_observations(space: spaces.Space[Any]) -> None:
    """Raise UsageError for observations that no policy takes."""
    for part in parts(space).values():
        if not isinstance(part, BASIC):
            raise UsageError(f"observations must be Box or discrete, or a Dict of them, got {part}")
        if isinstance(part, spaces.Box) and (0 in part.shape or not part.shape):
            raise UsageError(f"observations must hold a number or more, got {part}")


class ChannelsFirst(vec_env.VecTransposeImage):
    """Give images in the order of their memory, as a run that goes on has the last ones.

    A convolution of a transposed view rounds in another way.
    """

    @staticmethod
    def transpose_image(image: np.ndarray) -> np.ndarray:
        """Return images, ``(H, W, C)`` or several, with their channels in front."""
        return np.ascontiguousarray(vec_env.VecTransposeImage.transpose_image(image))


class Bounded(TimeLimit):
    """Cuts the episodes of an environment that has no limit of its own.

    An agent that never ends an episode could not be evaluated otherwise.
    """


def _bounded(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    limited = env.spec is not None and env.spec.max_episode_steps is not None
    return env if limited or is_atari(env) else Bounded(env, LONGEST_EPISODE)


class Sound(VecEnvWrapper):
    """Raise NonFiniteError at the first observation or reward that is NaN or infinite.

    Behind running statistics an infinite one would be clipped, and a greedy agent plays on with
    NaN: then all that follows from it is wrong, and looks well. What an environment raises itself
    becomes a UsageError, as does a discrete observation beyond its space, of which no policy makes
    a one-hot vector; where an environment cannot be closed, that is told and nothing is lost.
    """

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self._sizes = {
            key: part.n if isinstance(part, spaces.Discrete) else part.nvec
            for key, part in parts(venv.observation_space).items()
            if isinstance(part, spaces.Discrete | spaces.MultiDiscrete)
        }

    def reset(self) -> VecEnvObs:
        """Reset all environments."""
        with told("reset"):
            obs = self.venv.reset()
        self._check(obs)
        return obs

    def step_wait(self) -> VecEnvStepReturn:
        """Wait for the step taken with ``step_async``."""
        with told("stepped"):
            obs, rewards, dones, infos = self.venv.step_wait()
        _check_finite("reward", rewards)
        for done, info in zip(dones, infos, strict=True):
            if done:
                self._check(info["terminal_observation"])
                success = info.get("is_success")  # whose mean SB3 logs
                if success is not None and np.asarray(success).dtype.kind not in "buif":
                    raise UsageError(f"info['is_success'] must be True or False, got {success!r}")
            else:  # SB3 takes it for the end of an episode, which Monitor alone tells
                info.pop("episode", None)
        self._check(obs)
        return obs, rewards, dones, infos

    def _check(self, obs: Any) -> None:
        _check_finite("observation", obs)
        for key, size in self._sizes.items():
            seen = np.asarray(obs[key] if key else obs)
            if not ((seen >= 0) & (seen < size)).all():
                space = parts(self.observation_space)[key]
                raise UsageError(f"observations must be in {space}, got {seen.tolist()}")

    def close(self) -> None:
        """Close all environments."""
        try:
            self.venv.close()
        except Exception as error:  # of others' code
            print(f"the environment cannot be closed: {in_words(error)}", file=sys.stderr)


@contextmanager
def told(what: str) -> Iterator[None]:
    """Raise UsageError for what the code of an environment raises, an exit of the process too."""
    try:
        yield
    except (UsageError, NonFiniteError, Stopped):
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(f"the environment cannot be {what}: {in_words(error)}") from error


def _check_finite(word: str, given: Any) -> None:
    for array in map(np.asarray, given.values() if isinstance(given, dict) else (given,)):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            broken = array[~np.isfinite(array)].flat[0]
            raise NonFiniteError(f"{broken} in what the environment gives as {word}")


def _prepared(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    if hasattr(env.unwrapped, "action_mask"):
        return ActionMasks(env)
    return Atari(env) if is_atari(env) else env


class ActionMasks(gym.Wrapper[Any, Any, Any, Any]):
    """Give the mask that Gymnasium's environments put into ``info`` as sb3-contrib asks for it."""

    _mask: Any = ()

    def action_masks(self) -> np.ndarray:
        """Return True for each action that can be taken now."""
        return np.asarray(self._mask, bool)

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        obs, info = super().reset(**options)
        self._mask = info["action_mask"]
        return obs, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Play a step."""
        seen = super().step(action)
        self._mask = seen[-1]["action_mask"]
        return seen


class Atari(AtariWrapper):
    """SB3's ``AtariWrapper``, where a seed starts a new game also in the middle of one.

    Without one, ``reset`` goes on with the next life. Evaluations, each of which begins with the
    same seeds, would begin where the one before ended.
    """

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Go on with the next life, or start a new game if a ``seed`` is given."""
        if options.get("seed") is not None:
            self.set_wrapper_attr("was_real_done", True)
        return super().reset(**options)


def is_atari(env: gym.Env[Any, Any]) -> bool:
    """Return True for a game of the Arcade Learning Environment."""
    return type(env.unwrapped).__module__.partition(".")[0] == "ale_py"


def parts(space: spaces.Space[Any]) -> dict[str, spaces.Space[Any]]:
    """Return the spaces in a Dict by name, or the space itself."""
    return dict(space.items()) if isinstance(space, spaces.Dict) else {"": space}


_NO_OBS = {"norm_obs": False, "norm_obs_keys": None}


def _vectors(space: spaces.Space[Any]) -> dict[str, Any]:
    """Return ``VecNormalize``'s arguments: of the observations, vectors alone are scaled."""
    boxes = {key: part for key, part in parts(space).items() if isinstance(part, spaces.Box)}
    keys = [key for key, box in boxes.items() if not is_image_space(box)]
    in_dict = isinstance(space, spaces.Dict)
    return {"norm_obs": bool(keys), "norm_obs_keys": keys if keys and in_dict else None}
