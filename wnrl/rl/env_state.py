"""The state of vector environments, so that a resumed run goes on within its episodes.

An environment in Python is pickled with its wrappers, one with an emulator that can copy its state
(the Arcade Learning Environment) is asked for it. Others (Box2D, MuJoCo) rebuild themselves when
they are unpickled, which would lose their state: they cannot be saved.
"""

import io
import pickle
from collections.abc import Iterable
from typing import Any

import gymnasium as gym
from gymnasium import spaces
from gymnasium.utils import EzPickle
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper

from wnrl.errors import UsageError

# What states consist of besides the classes of the environments themselves.
PLAIN = frozenset(
    {
        ("builtins", "set"),
        ("collections", "OrderedDict"),
        ("collections", "defaultdict"),
        ("collections", "deque"),
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy._core.numeric", "_frombuffer"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy.core.numeric", "_frombuffer"),
        ("numpy.random._mt19937", "MT19937"),
        ("numpy.random._pcg64", "PCG64"),
        ("numpy.random._pickle", "__bit_generator_ctor"),
        ("numpy.random._pickle", "__generator_ctor"),
        ("numpy.random._pickle", "__randomstate_ctor"),
        ("numpy.random.bit_generator", "SeedSequence"),
        ("numpy.random.bit_generator", "__pyx_unpickle_SeedSequence"),
    }
)
KEPT = ("venv", "class_attributes")  # of a wrapper: not its state
Name = tuple[str, str]


def dump(value: Any) -> bytes:
    """Pickles plain data and environments; ``load`` is its reverse.

    Raises:
        UnsavableError: something in ``value`` has a state that cannot be saved.
    """
    out = io.BytesIO()
    try:
        _Pickler(out, protocol=5).dump(value)
    except (TypeError, AttributeError, ValueError, pickle.PicklingError) as error:
        raise UnsavableError(str(error).partition("\n")[0]) from error
    return out.getvalue()


def load(data: bytes, like: bytes = b"", bases: Iterable[gym.Env[Any, Any]] = ()) -> Any:
    """What ``dump`` pickled; no code runs but that of the classes that ``like`` has.

    Args:
        data: from ``dump``, of a file.
        like: from ``dump``, of objects that were just made here: data may name their classes.
        bases: environments that take the places of those whose state was not pickled.

    Raises:
        UsageError: ``data`` names anything else.
    """
    return _Unpickler(io.BytesIO(data), _names(like), list(bases)).load()


class UnsavableError(Exception):
    """The state of an environment cannot be saved."""


class _Pickler(pickle.Pickler):
    """Leaves out environments that would come back in another state."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.left_out: list[int] = []

    def persistent_id(self, obj: Any) -> int | None:
        if not isinstance(obj, EzPickle):
            return None
        if getattr(obj, "unwrapped", None) is not obj:
            raise UnsavableError(f"{type(obj).__name__} is no environment itself")
        if id(obj) not in self.left_out:
            self.left_out.append(id(obj))
        return self.left_out.index(id(obj))


class _Unpickler(pickle.Unpickler):
    """Finds only what it was told to."""

    def __init__(self, file: io.BytesIO, names: set[Name], bases: list[Any]) -> None:
        super().__init__(file)
        self.names, self.bases = names, bases

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in PLAIN and (module, name) not in self.names:
            raise UsageError(f"a saved state names {module}.{name}, which has no place in it")
        return super().find_class(module, name)

    def persistent_load(self, place: int) -> Any:
        return self.bases[place]


def _names(data: bytes) -> set[Name]:
    """What a pickle of our own names."""
    found: set[Name] = set()

    class Listener(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            found.add((module, name))
            return super().find_class(module, name)

        def persistent_load(self, place: int) -> None:
            return None

    if data:
        Listener(io.BytesIO(data)).load()
    return found


def layers(env: VecEnv) -> list[VecEnv]:
    """The wrappers of a vector environment, from the outside, and what they wrap."""
    found = [env]
    while isinstance(found[-1], VecEnvWrapper):
        found.append(found[-1].venv)
    return found


def _bases(venv: VecEnv) -> list[Any]:
    """The environments of ``venv`` that keep their state outside Python."""
    assert isinstance(venv, DummyVecEnv)
    return [env.unwrapped for env in venv.envs if isinstance(env.unwrapped, EzPickle)]


def _wrappers(env: VecEnv) -> list[dict[str, Any]]:
    """What each wrapper remembers: running statistics, stacked frames."""
    return [
        {
            name: value
            for name, value in vars(layer).items()
            if name not in KEPT and not isinstance(value, spaces.Space)
        }
        for layer in layers(env)[:-1]
    ]


def _episodes(env: VecEnv) -> tuple[Any, ...]:
    """The environments themselves, with copies of what they keep outside Python."""
    inner = layers(env)[-1]
    if not isinstance(inner, DummyVecEnv):
        raise UnsavableError(f"the environments of {type(inner).__name__} are in other processes")
    for base in _bases(inner):
        if not hasattr(base, "clone_state"):
            raise UnsavableError(f"{type(base).__name__} has no way to copy its state")
    outside = [(base.clone_state(include_rng=True), base.np_random) for base in _bases(inner)]
    return inner.envs, outside


def save_envs(env: VecEnv) -> tuple[bytes, bytes | None]:
    """What the wrappers of ``env`` remember, and its episodes; None where they cannot be saved."""
    try:
        return dump(_wrappers(env)), dump(_episodes(env))
    except UnsavableError:
        return dump(_wrappers(env)), None


def load_envs(env: VecEnv, wrappers: bytes, episodes: bytes | None) -> bool:
    """Puts ``env`` in the state of ``save_envs``; False where its episodes have to begin anew.

    Args:
        env: made like the one that was saved.
        wrappers: from ``save_envs``.
        episodes: from ``save_envs``.
    """
    remembered = load(wrappers, like=dump(_wrappers(env)))
    if episodes is not None:
        inner = layers(env)[-1]
        env.reset()  # so that there are random generators to be like
        like = dump(_episodes(env))
        assert isinstance(inner, DummyVecEnv)
        bases = _bases(inner)
        inner.envs, outside = load(episodes, like, bases)
        for base, (state, generator) in zip(bases, outside, strict=True):
            base.restore_state(state)
            base.np_random = generator
    for layer, memory in zip(layers(env)[:-1], remembered, strict=True):
        vars(layer).update(memory)
    return episodes is not None
