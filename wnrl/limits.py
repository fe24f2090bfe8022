"""Limits of values, which stand in the types of fields and arguments: ``n_envs: Whole``.

``wnrl.arguments.fault`` holds values to them. Neither torch nor numpy is needed: a program's flags
are looked at before they are imported.
"""

from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import cache
from math import isfinite
from pkgutil import resolve_name
from typing import Annotated, Any, get_origin, get_type_hints

from wnrl.arguments import Limit, fault
from wnrl.errors import UsageError, check_choice, check_from_zero, check_positive


def limit(holds: Callable[[Any], bool], words: str) -> Limit:
    """Return the limit to values for which something holds, which a message tells in words."""

    def check(**values: Any) -> None:
        for name, value in values.items():
            if not holds(value):
                raise UsageError(f"{name} must be {words}, got {value!r}")

    return Limit(check, words)


def one_of(options: str | Iterable[str]) -> Limit:
    """Return the limit to a word out of several.

    Args:
        options: the words, or where a table has them, ``module:TABLE``: it is imported and read
            where a value is checked, so that rows of one's own are known.
    """

    def check(**values: str) -> None:
        for name, value in values.items():
            known = resolve_name(options) if isinstance(options, str) else options
            check_choice(name, value, known)

    return Limit(check, f"one of {options if isinstance(options, str) else ', '.join(options)}")


def up_to(most: int) -> Limit:
    """Return the limit of a whole number that has a largest value."""
    return limit(lambda n: 1 <= n <= most, f"a whole number up to {most}, above zero")


Whole = Annotated[int, Limit(check_positive, "above zero")]
TwoOrMore = Annotated[int, limit(lambda n: n >= 2, "a whole number, 2 or more")]
WholeFromZero = Annotated[int, limit(lambda n: n >= 0, "a whole number from zero on")]
WholeOrMinusOne = Annotated[
    int, limit(lambda n: n == -1 or n >= 1, "a whole number above zero, or -1")
]
Environments = Annotated[int, up_to(10_000)]
"""Of one process, which makes each by itself: more fill the memory without a word."""
Frames = Annotated[int, up_to(1_000)]
"""Of one observation, which fill the memory in the same way."""
Sizes = Annotated[
    tuple[int, ...], limit(lambda ns: all(n >= 1 for n in ns), "whole sizes above zero")
]
some = limit(lambda values: 0 < len(values) == len({*values}), "one or more different values")
Positive = Annotated[float, Limit(check_positive, "above zero")]
FromZero = Annotated[float, Limit(check_from_zero, "zero or above")]
Fraction = Annotated[float, limit(lambda x: 0 <= x <= 1, "from 0 to 1")]
Share = Annotated[float, limit(lambda x: 0 < x <= 1, "a number above 0, up to 1")]
Threads = Annotated[int, up_to(1_024)]
"""Of a CPU: torch ends in a segmentation fault where the system has no more."""
Seed = Annotated[int, limit(lambda n: 0 <= n < 2**31, "from 0 to 2**31 - 1")]
NormKey = Annotated[str, one_of("wnrl.norms:NORMS")]
ActivationKey = Annotated[str, one_of("wnrl.networks:ACTIVATIONS")]


def check_optimizer(config: Any) -> None:
    """Raise UsageError where a decay or the end of a schedule would be ignored."""
    if config.weight_decay and config.optimizer != "adamw":
        raise UsageError(f"weight_decay is for optimizer adamw, got {config.optimizer!r}")
    if config.learning_rate_end and config.learning_rate_schedule == "constant":
        raise UsageError(
            f"learning_rate_end {config.learning_rate_end} is for a linear schedule, "
            "got learning_rate_schedule 'constant'"
        )


def check_minibatches(config: Any) -> None:
    """Raise UsageError where a minibatch has one sample: advantages are scaled by their spread."""
    samples = config.n_envs * config.n_steps
    if samples % config.batch_size == 1 or samples == 1:
        raise UsageError(
            f"batch_size {config.batch_size} leaves a last minibatch of one sample out of "
            f"n_envs * n_steps = {samples}"
        )


class Limited:
    """A base of frozen dataclasses whose fields are held to the limits in their types.

    Lists, as JSON has them, become tuples, and numpy's numbers Python's.

    Raises:
        UsageError: a value beyond a limit or of a wrong type; the line names the field, what was
            expected and the value.
    """

    def __post_init__(self) -> None:
        for name, kind in _kinds(type(self)).items():  # type: ignore[arg-type]
            value = getattr(self, name)
            if isinstance(value, list):
                value = tuple(value)
            elif type(value).__module__ == "numpy" and not value.shape:
                value = value.item()
            object.__setattr__(self, name, value)
            # What may stand in a dict is told where it is used.
            if text := fault(name, value, dict if get_origin(kind) is dict else kind):
                raise UsageError(text)
            for key, element in value.items() if isinstance(value, dict) else ():
                if isinstance(element, float) and not isfinite(element):  # which no JSON holds
                    raise UsageError(f"{name}: {key} must be finite, got {element}")


@cache
def _kinds(config: type[Any]) -> dict[str, Any]:
    hints = get_type_hints(config, include_extras=True)
    return {field.name: hints[field.name] for field in fields(config)}
