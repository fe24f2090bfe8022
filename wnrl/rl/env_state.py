"""The state of vector environments as plain values, so that a run goes on within its episodes.

An environment is walked attribute by attribute, wrappers included. What is written are numbers,
texts, arrays, containers of them and random generators; they are put into environments that were
made anew and reset, where each object stands at the same path and is of the same class. Reading
makes no object of a class that a file names. Environments that keep state outside Python (Atari,
Box2D, MuJoCo), or that say themselves how they are pickled, have no such state; their episodes
begin anew.
"""

import copy
import random
from collections import OrderedDict, deque
from contextlib import suppress
from enum import Enum
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any
from zlib import crc32

import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper

SCALARS = (type(None), bool, int, float, str, bytes)
DICTS = (dict, OrderedDict)
CONTAINERS: dict[str, Any] = {kind.__name__: kind for kind in (list, tuple, set, deque, *DICTS)}
BIT_GENERATORS = {kind.__name__: kind for kind in np.random.BitGenerator.__subclasses__()}
RANDOM: dict[str, Any] = {kind.__name__: kind for kind in (random.Random, np.random.RandomState)}
STATELESS = (ModuleType, type, EnvSpec, np.dtype, Enum)
NOT_STATE = ("venv", "class_attributes")  # of a wrapper


class UnsavableError(ValueError):
    """The state of an environment cannot be saved, or does not fit the environment here."""


def _has_attributes_alone(value: Any) -> bool:
    """Return True for an instance whose attributes are all that pickle would write of it."""
    try:
        make, arguments, state, *items = value.__reduce_ex__(4)
        made_anew = make.__name__ == "__newobj__" and arguments == (type(value),)
        return made_anew and items == [None, None] and state is (vars(value) or None)
    except Exception:  # it has state of C code, or says itself how it is pickled
        return False


def _stateless_name(value: Any) -> str:
    """Return the name of a value that never changes; an empty string for all others.

    That of a function has its place in the source, and what it holds.
    """
    held: list[Any] = []
    if isinstance(value, FunctionType):
        parts = [cell.cell_contents for cell in value.__closure__ or ()]
        parts += [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        parts += vars(value).values()
        held = [repr(part) if type(part) in SCALARS else _stateless_name(part) for part in parts]
        fixed = all(held)
        held.append(crc32(repr([*value.__code__.co_positions()]).encode()))
    elif isinstance(value, BuiltinFunctionType):
        fixed = isinstance(value.__self__, ModuleType | type(None))
    else:
        fixed = isinstance(value, STATELESS)
    words = (getattr(value, word, None) for word in ("__qualname__", "__name__", "id", "name"))
    name = next((word for word in words if isinstance(word, str)), "")
    place = getattr(value, "__module__", "")
    return f"{_class_name(value)} {place}.{name} {held or ''}".rstrip() if fixed else ""


def _class_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


class _Writer:
    """Makes trees of values; what two places share is written once."""

    def __init__(self) -> None:
        self.places: dict[int, int] = {}
        self.written: list[Any] = []  # which also keeps the ids from being used again
        self.owners: dict[int, tuple[Any, Any]] = {}  # of memory, and the array that uses it

    def write(self, value: Any) -> Any:
        kind = type(value)
        if kind in SCALARS or isinstance(value, np.generic):
            return value
        if id(value) in self.places:
            return ["same", self.places[id(value)]]
        self.places[id(value)] = len(self.written)
        self.written.append(value)
        if name := _stateless_name(value):
            return ["stateless", name]
        if kind in DICTS:
            pairs = ([self.write(key), self.write(part)] for key, part in value.items())
            return [kind.__name__, *pairs]
        if kind in CONTAINERS.values():
            limit = value.maxlen if kind is deque else None
            return [kind.__name__, limit, *(self.write(part) for part in value)]
        if kind is np.ndarray:
            return ["array", self._array(value)]
        if kind is np.random.Generator and type(value.bit_generator).__name__ in BIT_GENERATORS:
            source = value.bit_generator
            return ["generator", type(source).__name__, source.state, source.seed_seq.state]
        if kind in RANDOM.values():
            return ["random", kind.__name__, value.__getstate__()]
        if _has_attributes_alone(value):
            pairs = ([name, self.write(part)] for name, part in vars(value).items())
            return ["object", _class_name(value), *pairs]
        raise UnsavableError(f"a {_class_name(value)} has no state that can be saved")

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
        self.changes: dict[int, tuple[Any, dict[str, Any]]] = {}  # by the id of the object

    def apply(self) -> None:
        """Change the objects to what was read."""
        for here, attributes in self.changes.values():
            object.__setattr__(here, "__dict__", attributes)

    def read(self, tree: Any, here: Any) -> Any:
        """Return the value of ``tree``; ``here`` is what stands in its place now."""
        if not isinstance(tree, list):
            return tree
        if tree[0] == "same":
            return self.made[tree[1]]
        place, self.n_read = self.n_read, self.n_read + 1
        made: Any
        match tree:
            case ["stateless", name] if name == _stateless_name(here):
                made = here
            case ["array", array]:
                made = array.copy()
            case ["generator", name, state, seeds]:
                source = BIT_GENERATORS[name](np.random.SeedSequence(**seeds))
                source.state = state
                made = np.random.Generator(source)
            case ["random", name, state]:
                made = RANDOM[name]()
                made.__setstate__(state)
            case ["tuple", _, *parts]:
                made = tuple(self._parts(parts, here, tuple))
            case ["dict" | "OrderedDict" as word, *pairs]:
                made = self.made[place] = CONTAINERS[word]()  # before what is inside of it
                inside = here if type(here) in DICTS else {}
                for key, part in pairs:
                    name = self.read(key, None)
                    made[name] = self.read(part, inside.get(name))
            case ["list" | "deque" | "set" as word, limit, *parts]:
                made = deque(maxlen=limit) if word == "deque" else CONTAINERS[word]()
                self.made[place] = made
                fill = made.update if word == "set" else made.extend
                fill(self._parts(parts, here, CONTAINERS[word]))
            case ["object", name, *pairs] if name == _class_name(here):
                made = self.made[place] = here
                if id(here) in self.changes:
                    raise UnsavableError(f"two objects were one {name} here")
                attributes: dict[str, Any] = {}
                self.changes[id(here)] = here, attributes
                for key, part in pairs:
                    attributes[key] = self.read(part, vars(here).get(key))
            case _:
                raise UnsavableError(f"a {' '.join(map(str, tree[:2]))} does not fit what is here")
        self.made[place] = made
        return made

    def _parts(self, parts: list[Any], here: Any, kind: Any) -> list[Any]:
        inside = [*here] if type(here) is kind and kind is not set else []
        inside += [None] * (len(parts) - len(inside))
        return [self.read(*pair) for pair in zip(parts, inside, strict=False)]


def _layers(env: VecEnv) -> list[VecEnv]:
    """Return the wrappers of a vector environment, from the outside, and what they wrap."""
    return [env, *_layers(env.venv)] if isinstance(env, VecEnvWrapper) else [env]


def _memory(wrapper: VecEnv) -> dict[str, Any]:
    """Return what a wrapper remembers: running statistics, stacked frames."""
    return {
        # What was seen last may be a view of stacked frames, which are written by themselves.
        name: copy.deepcopy(value) if name == "old_obs" else value
        for name, value in vars(wrapper).items()
        if name not in NOT_STATE and not isinstance(value, spaces.Space)
    }


def save_envs(env: VecEnv) -> dict[str, Any]:
    """Return the state of ``env`` as values; its ``episodes`` are None where they have none."""
    *wrappers, inner = _layers(env)
    try:
        episodes = _Writer().write(inner.envs) if isinstance(inner, DummyVecEnv) else None
    except (ValueError, RecursionError):  # a function may hold a variable that is gone, or itself
        episodes = None
    return {"wrappers": _Writer().write([*map(_memory, wrappers)]), "episodes": episodes}


def load_envs(env: VecEnv, saved: dict[str, Any]) -> bool:
    """Put ``env`` in the state of ``save_envs``; return False where episodes have to begin anew.

    Args:
        env: Made like the one that was saved.
        saved: From ``save_envs``.

    Raises:
        ValueError: The wrappers are others than those that were saved.
    """
    *wrappers, inner = _layers(env)
    episodes, memories = _Reader(), _Reader()
    goes_on = False
    if saved["episodes"] is not None and isinstance(inner, DummyVecEnv):
        env.reset()  # so that what a first reset makes is there
        with suppress(KeyError, ValueError, TypeError):
            episodes.read(saved["episodes"], inner.envs)
            goes_on = True
    remembered = memories.read(saved["wrappers"], [*map(_memory, wrappers)])
    if goes_on:
        episodes.apply()
    memories.apply()
    for wrapper, memory in zip(wrappers, remembered, strict=True):
        vars(wrapper).update(memory)
    return goes_on
