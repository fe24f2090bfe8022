"""Arguments of public functions and constructors, checked against their annotations at the call.

A room's ``__init__`` ends with ``guard(globals())``: what is imported from the room tells a wrong
argument in words. Calls within the room do not pass its door, and cost nothing.
"""

import inspect
import types
from collections import abc
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from dataclasses import dataclass
from functools import cache, wraps
from numbers import Integral, Real
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from wnrl.errors import UsageError, did_you_mean, printable

TargetT = TypeVar("TargetT", bound=Callable[..., Any])
WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "a string",
    type: "a class",
    type(None): "None",
    abc.Callable: "callable",
    abc.Iterable: "a collection",
}
ANYTHING = (Any, inspect.Parameter.empty)
READABLE = (str, int, float, type(None), list, tuple, dict, set)
"""Types whose values a message shows; of others it names the type."""


@dataclass(frozen=True, repr=False)
class Limit:
    """What stands in an ``Annotated``, beside what other libraries put there, to limit values."""

    check: Callable[..., object]
    """Called with one keyword, the name and a value of the right type; raises UsageError for what
    cannot be."""
    words: str
    """What ``help`` and a signature show of it."""

    def __repr__(self) -> str:
        return self.words


def guard(namespace: MutableMapping[str, Any], names: Iterable[str] | None = None) -> list[str]:
    """Check the arguments of functions and constructors in a room's namespace from now on.

    Args:
        namespace: the room's ``globals()``.
        names: of some of them; None takes all that come from files of the room.

    Returns:
        The names.
    """
    if names is None:
        homes = {name: str(getattr(value, "__module__", "")) for name, value in namespace.items()}
        room = namespace["__name__"] + "."
        names = [name for name, home in homes.items() if home.startswith(room)]
    guarded = list(names)
    for name in guarded:
        value = namespace[name]
        if inspect.isfunction(value):
            namespace[name] = checked(value)
            namespace[name].__module__ = namespace["__name__"]  # where pickle finds it
        elif inspect.isclass(value):
            checked(value)
    return guarded


def checked(target: TargetT) -> TargetT:
    """Decorate a function or class, which raises UsageError for an argument of a wrong type.

    Of a class it is the constructor, at whichever of its bases has it, if that is one of ours.
    Annotations are resolved at the first call. ``True`` is no number, a whole number is a number,
    those of numpy are too; a list passes for a tuple; elements of collections are looked at.
    """
    if not isinstance(target, type):
        return _checked(target)
    base: Any = next(base for base in target.__mro__ if "__init__" in vars(base))
    if base.__module__.split(".")[0] == "wnrl" and not hasattr(base.__init__, "__wrapped__"):
        base.__init__ = _checked(base.__init__)
    return target


def _checked(function: Any) -> Any:
    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        kind: Any = type(args[0]) if args else None
        if getattr(kind, "__signature__", None) is not None and kind.__init__ is call:
            check(kind, args[1:], kwargs)  # it shows more arguments than its constructor names
        else:
            check(function, args, kwargs)
        return function(*args, **kwargs)

    return call


def check(target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise UsageError for the first argument that is not what its annotation says."""
    signature = _signature(target)
    try:
        arguments = signature.bind(*args, **kwargs).arguments
    except TypeError:  # which Python tells at the call itself
        return
    for name, value in arguments.items():
        parameter, each = signature.parameters[name], {name: value}
        if parameter.kind is parameter.VAR_POSITIONAL:
            each = {f"{name}[{k}]": element for k, element in enumerate(value)}
        elif parameter.kind is parameter.VAR_KEYWORD:
            each = value
        for key, element in each.items():
            if text := fault(key, element, parameter.annotation):
                raise UsageError(text)


@cache
def _signature(target: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(target, eval_str=True)


def fault(name: str, value: object, kind: Any) -> str | None:
    """Return what is wrong with ``value`` for an annotation, and None where nothing is."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        if text := fault(name, value, inner[0]):
            return text
        try:
            for limit in inner[1:]:
                if isinstance(limit, Limit):
                    limit.check(**{name: value})
        except UsageError as error:
            return str(error)
        return None
    if origin in (Union, types.UnionType):
        faults = {member: fault(name, value, member) for member in inner}
        if None in faults.values():
            return None
        within = (text for member, text in faults.items() if text != _wrong(name, value, member))
        return next(within, _wrong(name, value, kind))
    if not _fits(value, kind, origin, inner):
        return _wrong(name, value, kind)
    return next(filter(None, (fault(*part) for part in _parts(name, value, origin, inner))), None)


def _wrong(name: str, value: object, kind: Any) -> str:
    options = get_args(kind) if get_origin(kind) is Literal else ()
    return f"{name} must be {words(kind)}, got {shown(value)}{did_you_mean(value, options)}"


def _fits(value: Any, kind: Any, origin: Any, inner: tuple[Any, ...]) -> bool:
    """Tell whether a value is what an annotation says, but for what a collection holds."""
    plain = origin or kind
    if origin is Literal:
        return any(value == word and type(value) is type(word) for word in inner)
    if plain in ANYTHING or not isinstance(plain, type):  # which a TypeVar is not
        return plain is not None or value is None
    if plain is bool:
        return type(value).__name__ in ("bool", "bool_")  # numpy's too, which is not imported here
    if plain in (int, float):
        return isinstance(value, Integral if plain is int else Real) and not isinstance(value, bool)
    if plain is tuple and isinstance(value, list | tuple):
        return not inner or inner[-1] is ... or len(inner) == len(value)
    if isinstance(value, str | bytes) and plain.__module__ == abc.__name__:
        return False  # a word is no collection of letters
    if inner and plain is type and isinstance(value, type):
        base = get_origin(inner[0]) or inner[0]
        return base in ANYTHING or issubclass(value, base)
    return isinstance(value, plain)


def _parts(
    name: str, value: Any, origin: Any, inner: tuple[Any, ...]
) -> Iterator[tuple[str, object, Any]]:
    """Yield what a collection holds, with annotations."""
    if origin is tuple and inner[-1] is not ...:
        yield from ((f"{name}[{k}]", value[k], kind) for k, kind in enumerate(inner))
    elif isinstance(value, abc.Mapping) and len(inner) == 2:
        yield from ((f"a key of {name}", key, inner[0]) for key in value)
        yield from ((f"{name}[{key!r}]", element, inner[1]) for key, element in value.items())
    elif inner and isinstance(value, list | tuple | abc.Set):
        yield from ((f"{name}[{k}]", element, inner[0]) for k, element in enumerate(value))


def words(kind: Any) -> str:
    """Return what a message calls an annotation."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return words(inner[0])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(words(member) for member in inner))
    if origin is Literal:
        return "one of " * (len(inner) > 1) + ", ".join(map(str, inner))
    if origin is tuple and inner[-1] is not ...:
        return f"a tuple of {len(inner)}"
    if origin is type and isinstance(inner[0], type):
        return f"a subclass of {inner[0].__name__}"
    plain = type(None) if kind is None else origin or kind
    return WORDS.get(plain) or _noun(plain.__name__ if origin is None else plain.__name__.lower())


def shown(value: object) -> str:
    """Return a value as a message shows it, short and on one line."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, READABLE):
        return printable(repr(value), 80)
    return _noun(type(value).__name__)


def _noun(name: str) -> str:
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
