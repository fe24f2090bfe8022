"""The one error for what a caller got wrong, and the message for a word that does not exist."""

import difflib
import math
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import Any

EXTENDED = ("algo", "model", "norm")  # words of tables that a module of one's own adds to


class UsageError(ValueError):
    """A caller's mistake, told in one line; programs print it and exit with 2."""


class InUseError(UsageError):
    """Another process holds a folder."""


class StateError(UsageError, RuntimeError):
    """A state that a module cannot take, which programs around torch expect as a RuntimeError."""


class NonFiniteError(ArithmeticError):
    """A loss or a parameter became NaN or infinite; the run that had it has failed."""


@contextmanager
def extra(name: str, what: str) -> Iterator[None]:
    """Raise UsageError where an import inside finds no package.

    Args:
        name: of the extra of this project that has it.
        what: needs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        told = f"{what} needs {package}, which is missing: pip install 'wnrl[{name}]'"
        raise UsageError(told) from error


def said(error: BaseException) -> str:
    """Return what an error says on one line, or the name of its class if it says nothing."""
    return printable(error) or type(error).__name__


@contextmanager
def as_usage_error(
    what: str, *kinds: type[BaseException], say: Callable[[Any], str] = said
) -> Iterator[None]:
    """Raise UsageError in the place of errors of some kinds: ``what``, and what they say."""
    try:
        yield
    except kinds as error:
        raise UsageError(f"{what}: {say(error)}") from error


def printable(text: object, length: int = 200) -> str:
    """Return ``text`` as one line that a terminal, a table and a page can show.

    Control characters, which could move a terminal's cursor or forge a line, are written as Python
    writes them in a string; white space of any kind becomes a single space.

    Args:
        text: What an environment, an error or a file says.
        length: The most characters.
    """
    line = " ".join(str(text).split())
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)[:length]


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or the name of its class if it says nothing."""
    return printable(str(error).strip().partition("\n")[0]) or type(error).__name__


def in_words(error: BaseException) -> str:
    """Return what an error says, on one line.

    One that is not ours has its class in front and the place where it was raised behind, in the
    place of a traceback, for whoever wrote that code.
    """
    if isinstance(error, UsageError):
        return printable(error)
    places = traceback.extract_tb(error.__traceback__)[-1:]
    where = "".join(f" ({Path(place.filename).name}, line {place.lineno})" for place in places)
    return f"{type(error).__name__}: {printable(error)}{where}"


def check_choice(name: str, value: str, options: Iterable[str]) -> str:
    """Returns ``value`` if it is one of ``options``.

    Raises:
        UsageError: it is not; the message lists the options and the nearest one.
    """
    known = list(options)
    if value in known:
        return value
    if not known:
        raise UsageError(f"{name} has no choice here, got {value!r}")
    shown = ", ".join(known) if len(known) <= 20 else f"{len(known)} known words"
    own = "; for one of your own, --import its module" if name in EXTENDED else ""
    guess = did_you_mean(value, known)
    raise UsageError(f"{name} must be one of {shown}, got {value!r}{guess}{own}")


def did_you_mean(value: object, options: Iterable[object]) -> str:
    """Return "; did you mean …?" with the option most like ``value``, or "" if none is like it.

    Among many words some are alike by chance, by a version at their end for one: of more than
    twenty the nearest has to be nearer.
    """
    lowered = {str(option).lower(): option for option in options}
    cutoff = 0.6 if len(lowered) <= 20 else 0.75
    near = difflib.get_close_matches(str(value).lower(), lowered, n=1, cutoff=cutoff)
    return f"; did you mean {lowered[near[0]]!r}?" if near else ""


def is_real(value: object) -> bool:
    """Return whether ``value`` is a real number; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_positive(**values: float) -> None:
    """Raises UsageError for the first keyword whose value is not above zero, or not finite."""
    for name, value in values.items():
        if not (is_real(value) and value > 0):
            raise UsageError(f"{name} must be above zero, got {value!r}")
        if value == math.inf:
            raise UsageError(f"{name} must be finite, got {value!r}")


def check_from_zero(**values: float) -> None:
    """Raise UsageError for the first keyword whose value is below zero, or not finite."""
    for name, value in values.items():
        if not (is_real(value) and 0 <= value < math.inf):
            raise UsageError(f"{name} must be zero or above, got {value!r}")
