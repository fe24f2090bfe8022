"""The state of vector environments as plain values, so that a run goes on within its episodes.

An environment is walked attribute by attribute, wrappers included. What is written are numbers,
texts, arrays, containers of them and random generators; they are put into environments that were
made anew and reset, where each object stands at the same path and is of the same class. Reading
makes no object of a class that a file names. Environments that keep state outside Python (Box2D,
MuJoCo), or that say themselves how they are pickled, have no such state; their episodes begin anew.
The Arcade Learning Environment is asked for a copy of its emulator.
"""

import logging
import random
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from enum import Enum
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper

SCALARS = (type(None), bool, int, float, str, bytes)
CONTAINERS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (list, tuple, set, frozenset, deque, dict, OrderedDict, defaultdict)
}
BIT_GENERATORS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox,
                 np.random.SFC64)
}  # fmt: skip
STATELESS = (ModuleType, type, EnvSpec, np.dtype, np.ufunc, Enum, logging.Logger)
GLOBAL_GENERATORS = (np.random.mtrand._rand, random._inst)
KEPT = ("venv", "class_attributes")  # of a wrapper: not its state


class UnsavableError(ValueError):
    """The state of an environment cannot be saved, or does not fit the environment here."""


class _Plain:
    """An instance of no more than attributes."""


def _has_attributes_alone(value: Any) -> bool:
    kind = type(value)
    return (
        hasattr(value, "__dict__")
        and kind.__basicsize__ <= _Plain.__basicsize__
        and kind.__itemsize__ == 0
        and all(
            getattr(kind, name) is getattr(object, name)
            for name in ("__getstate__", "__reduce__", "__reduce_ex__")
        )
    )


def _stateless_name(value: Any) -> str:
    """Return the name of a value that never changes; an empty string for all others."""
    if isinstance(value, FunctionType):
        held = [cell.cell_contents for cell in value.__closure__ or ()]
        held += [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        if not all(type(part) in SCALARS or _stateless_name(part) for part in held):
            return ""
    elif isinstance(value, BuiltinFunctionType):
        if not isinstance(value.__self__, ModuleType | type(None)):
            return ""
    elif not isinstance(value, STATELESS) and not any(value is g for g in GLOBAL_GENERATORS):
        return ""
    names = (getattr(value, word, None) for word in ("__qualname__", "__name__", "id", "name"))
    name = next((name for name in names if isinstance(name, str)), type(value).__name__)
    return f"{type(value).__name__} {getattr(value, '__module__', '')}.{name}"


def _class_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


class _Writer:
    """Makes trees of values; what two places share is written once."""

    def __init__(self) -> None:
        self.places: dict[int, int] = {}
        self.written: list[Any] = []  # which also keeps the ids from being used again
        self.owners: dict[int, tuple[Any, Any]] = {}  # of memory, and the array that uses it

    def write(self, value: Any) -> Any:
        if type(value) in SCALARS or isinstance(value, np.generic):
            return value
        if id(value) in self.places:
            return ["same", self.places[id(value)]]
        self.places[id(value)] = len(self.written)
        self.written.append(value)
        kind = type(value)
        if name := _stateless_name(value):
            return ["stateless", name]
        if CONTAINERS.get(kind.__name__) is kind:
            limit = value.maxlen if isinstance(value, deque) else None
            return [kind.__name__, limit, *self._parts(value)]
        if kind is np.ndarray:
            return ["array", self._array(value)]
        if kind is np.random.Generator:
            source = value.bit_generator
            if type(source.seed_seq) is not np.random.SeedSequence:
                raise UnsavableError("a random generator has a seed of another kind")
            return ["generator", type(source).__name__, source.state, source.seed_seq.state]
        if kind is np.random.RandomState:
            return ["random state", value.get_state(legacy=False)]
        if kind is random.Random:
            return ["random", value.getstate()]
        if kind is MethodType:
            return ["method", value.__func__.__qualname__, self.write(value.__self__)]
        if _is_emulated(value):
            emulator = value.clone_state(include_rng=True).serialize()
            return ["emulator", emulator, self.write(value.np_random)]
        if _has_attributes_alone(value):
            pairs = ([name, self.write(part)] for name, part in vars(value).items())
            return ["object", _class_name(value), *pairs]
        raise UnsavableError(f"a {_class_name(value)} has no state that can be saved")

    def _parts(self, container: Any) -> list[Any]:
        if isinstance(container, dict):
            return [[self.write(key), self.write(part)] for key, part in container.items()]
        return [self.write(part) for part in container]

    def _array(self, array: np.ndarray) -> np.ndarray:
        owner = array
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        if array.dtype.hasobject or array.dtype.names or owner.base is not None:
            raise UnsavableError("an array holds other things than numbers, or others' memory")
        if self.owners.setdefault(id(owner), (owner, array))[1] is not array:
            raise UnsavableError("two arrays share their memory")
        return array.copy()


class _Reader:
    """Makes values of trees; objects that are here get their attributes at ``apply``."""

    def __init__(self) -> None:
        self.n_read = 0
        self.made: dict[int, Any] = {}
        self.filled: set[int] = set()
        self.changes: list[Callable[[], None]] = []

    def apply(self) -> None:
        """Change the objects to what was read."""
        for change in self.changes:
            change()

    def read(self, tree: Any, here: Any) -> Any:
        """Return the value of ``tree``; ``here`` is what stands in its place now."""
        if not isinstance(tree, list):
            return tree
        word, *parts = tree
        if word == "same":
            return self.made[parts[0]]
        place, self.n_read = self.n_read, self.n_read + 1
        if word in CONTAINERS:
            self._read_container(place, CONTAINERS[word], parts, here)
        elif word == "object":
            self._read_object(place, parts, here)
        else:
            self.made[place] = self._read_leaf(word, parts, here)
        return self.made[place]

    def _read_container(self, place: int, kind: Any, parts: list[Any], here: Any) -> None:
        limit, *parts = parts
        inside = here if type(here) is kind else kind()
        if issubclass(kind, dict):
            filled = self.made[place] = inside.copy()  # a defaultdict's function is kept
            filled.clear()
            for key, part in parts:
                name = self.read(key, None)
                filled[name] = self.read(part, inside.get(name))
            return
        parts_here = [*inside] if kind in (list, tuple, deque) else []
        parts_here += [None] * len(parts)
        values = (self.read(part, here) for part, here in zip(parts, parts_here, strict=False))
        if kind in (list, deque, set):  # what is inside may hold the container
            made: Any = deque(maxlen=limit) if kind is deque else kind()
            self.made[place] = made
            (made.update if kind is set else made.extend)(values)
        else:
            self.made[place] = kind(values)

    def _read_object(self, place: int, parts: list[Any], here: Any) -> None:
        name, *pairs = parts
        if _class_name(here) != name or id(here) in self.filled:
            raise UnsavableError(f"there is no {name} here")
        self.filled.add(id(here))
        self.made[place] = here
        attributes = {key: self.read(part, vars(here).get(key)) for key, part in pairs}

        def change() -> None:
            vars(here).clear()
            vars(here).update(attributes)

        self.changes.append(change)

    def _read_leaf(self, word: str, parts: list[Any], here: Any) -> Any:
        match word, parts:
            case "array", [array]:
                return array.copy()
            case "generator", [name, state, seeds]:
                source = BIT_GENERATORS[name](np.random.SeedSequence(**seeds))
                source.state = state
                return np.random.Generator(source)
            case "random state", [state]:
                legacy = np.random.RandomState()
                legacy.set_state(state)
                return legacy
            case "random", [state]:
                generator = random.Random()
                generator.setstate(state)
                return generator
            case "method", [name, owner] if isinstance(here, MethodType):
                self.read(owner, here.__self__)
                if here.__func__.__qualname__ == name:
                    return here
            case "stateless", [name] if name and _stateless_name(here) == name:
                return here
            case "emulator", [data, generator] if _is_emulated(here):
                numbers = self.read(generator, None)
                self.changes.append(lambda: _set_emulator(here, data, numbers))
                return here
        raise UnsavableError(f"a {word} does not fit what is here")


def _is_emulated(env: Any) -> bool:
    """Return True for a game of the Arcade Learning Environment itself."""
    return type(env).__module__.startswith("ale_py") and hasattr(env, "clone_state")


def _set_emulator(env: Any, data: bytes, generator: np.random.Generator) -> None:
    env.restore_state(type(env.clone_state())(data))
    env.np_random = generator


def layers(env: VecEnv) -> list[VecEnv]:
    """Return the wrappers of a vector environment, from the outside, and what they wrap."""
    found = [env]
    while isinstance(found[-1], VecEnvWrapper):
        found.append(found[-1].venv)
    return found


def _wrappers(env: VecEnv) -> list[dict[str, Any]]:
    """Return what each wrapper remembers: running statistics, stacked frames."""
    return [
        {
            name: value
            for name, value in vars(layer).items()
            if name not in KEPT and not isinstance(value, spaces.Space)
        }
        for layer in layers(env)[:-1]
    ]


def save_envs(env: VecEnv) -> dict[str, Any]:
    """Return the state of ``env`` as values; its ``episodes`` are None where they have none."""
    inner = layers(env)[-1]
    try:
        episodes = _Writer().write(inner.envs) if isinstance(inner, DummyVecEnv) else None
    except UnsavableError:
        episodes = None
    return {"wrappers": _Writer().write(_wrappers(env)), "episodes": episodes}


def load_envs(env: VecEnv, saved: dict[str, Any]) -> bool:
    """Put ``env`` in the state of ``save_envs``; return False where episodes have to begin anew.

    Args:
        env: Made like the one that was saved.
        saved: From ``save_envs``.

    Raises:
        UnsavableError: The wrappers are others than those that were saved.
    """
    inner, episodes = layers(env)[-1], _Reader()
    goes_on = saved["episodes"] is not None and isinstance(inner, DummyVecEnv)
    if isinstance(inner, DummyVecEnv) and goes_on:
        env.reset()  # so that what a first reset makes is there
        try:
            episodes.read(saved["episodes"], inner.envs)
        except (UnsavableError, KeyError, ValueError, TypeError):
            goes_on, episodes = False, _Reader()
    wrappers = _Reader()
    memories = wrappers.read(saved["wrappers"], _wrappers(env))
    for reader in (episodes, wrappers):
        reader.apply()
    for layer, memory in zip(layers(env)[:-1], memories, strict=True):
        vars(layer).update(memory)
    return goes_on
