import copy
import functools
import inspect
import pickle
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wnrl.arguments import checked, fault, guard
from wnrl.errors import UsageError

T = TypeVar("T")


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        (int, [3, np.int64(3)], [True, 3.0, "3", None, torch.tensor(3)]),
        (float, [3, 0.5, np.float32(0.5), np.int8(1), float("nan")], [True, "1", None, [1.0]]),
        (bool, [True, np.bool_(0)], [1, "True", None]),
        (str, ["", np.str_("a")], [b"a", 1, None]),
        (None, [None], [0, "None"]),
        (int | None, [1, None], [1.5, "None", False]),
        (Literal["a", 1], ["a", 1], ["b", True, None, []]),
        (Sequence[int], [[1], (), range(3)], [["a"], "12", 1, {1}, [1, None]]),
        (Collection[str], [["a"], {"a"}, ()], ["abc", [1], {1}]),
        (Iterable[str], [["a"], iter("ab"), {"a": 1}], ["abc", 3, [1]]),
        (tuple[int, ...], [(1, 2), [1], ()], [1, ("a",), "12", {1}]),
        (tuple[int, str], [(1, "a"), [1, "a"]], [(1,), ("a", 1), (1, "a", 2)]),
        (Mapping[str, float], [{"a": 1}, {}], [{1: 1.0}, {"a": "b"}, [], "a"]),
        (dict[str, Any], [{"a": object()}], [{1: 1}, []]),
        (dict[str, list[int]], [{"a": [1]}], [{"a": [1.5]}, {"a": 1}]),
        (Callable[[int], str], [print, int, lambda x: x], [1, "print", None]),
        (type[nn.Module], [nn.Linear], [nn.Linear(1, 1), int, "Linear"]),
        (type, [int], [1]),
        (Tensor, [torch.ones(2), nn.Parameter(torch.ones(1))], [1.0, [1.0], np.ones(1), None]),
        (str | Path, ["a", Path("a")], [1, None, b"a"]),
        (Annotated[int, "of layers"], [1], [1.5]),
        (np.ndarray[Any, np.dtype[np.float64]], [np.ones(2)], [[1.0], 1.0]),
        (Any, [1, None, "a"], []),
        (T, [1, None, "a"], []),
        (inspect.Parameter.empty, [1, None], []),
        (object, [1, None], []),
    ],
)
def test_a_value_fits_its_annotation_or_is_at_fault(kind, right, wrong):
    for value in right:
        assert fault("x", value, kind) is None, value
    for value in wrong:
        assert fault("x", value, kind).split(" must be ")[0].removeprefix("a key of ")[0] == "x"


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (int, "a\x1b\nb", r"x must be a whole number, got 'a\x1b\nb'"),
        (float | None, nn.Linear(1, 1), "x must be a number or None, got a Linear"),
        (int, int, "x must be a whole number, got the class int"),
        (Annotated[int, "of layers"] | None, 1.5, "x must be a whole number or None, got 1.5"),
        (Tensor, torch, "x must be a Tensor, got a module"),
        (Sequence[int], ["a"], "x[0] must be a whole number, got 'a'"),
        (Sequence[int], 3, "x must be a sequence, got 3"),
        (tuple[int, ...] | None, (1, "a"), "x[1] must be a whole number, got 'a'"),
        (tuple[int, int, int], (1, 2), "x must be a tuple of 3, got (1, 2)"),
        (dict[str, float], {"lr": "a"}, "x['lr'] must be a number, got 'a'"),
        (dict[str, float], {1: 0.0}, "a key of x must be a string, got 1"),
        (Literal["a", "b"], "c", "x must be one of a, b, got 'c'"),
        (type[nn.Module], 1, "x must be a subclass of Module, got 1"),
        (Callable[..., Any] | str, 1, "x must be callable or a string, got 1"),
        (bool, 1, "x must be True or False, got 1"),
        (int, [0] * 1000, "x must be a whole number, got " + repr([0] * 1000)[:80]),
    ],
)  # fmt: skip
def test_the_message_names_the_argument_what_was_expected_and_what_came(kind, value, message):
    assert fault("x", value, kind) == message


@checked
def scaled(x: float, *more: float, times: int = 2, **labels: str) -> float:
    """The product."""
    return x * times


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (("a",), {}, "x must be a number, got 'a'"),
        ((1, 2, "b"), {}, r"more\[1\] must be a number, got 'b'"),
        ((1,), {"times": 1.5}, "times must be a whole number, got 1.5"),
        ((1,), {"name": 3}, "name must be a string, got 3"),
    ],
)
def test_a_wrong_argument_of_a_function_is_a_usage_error(args, kwargs, message):
    with pytest.raises(UsageError, match=f"^{message}$"):
        scaled(*args, **kwargs)


def test_a_checked_function_is_the_function():
    assert scaled(1.5, 2, times=2, name="a") == 3.0
    assert scaled.__doc__ == "The product."
    assert list(inspect.signature(scaled).parameters) == ["x", "more", "times", "labels"]
    assert pickle.loads(pickle.dumps(scaled)) is scaled
    assert functools.partial(scaled, times=3)(2) == 6
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'x'"):
        scaled()


class Base(nn.Module):
    def __init__(self, width: int, names: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Derived(Base):
    def __init__(self, size: float) -> None:
        super().__init__(int(size))


@dataclass(frozen=True)
class Settings:
    n: int = 1
    kind: Literal["a", "b"] = "a"

    def __post_init__(self):
        if self.n < 1:
            raise UsageError("n must be above zero")


Base.__module__ = Settings.__module__ = "wnrl.of_a_test"
assert checked(Base) is Base
checked(Base)
checked(Settings)


def test_constructors_check_their_arguments_and_subclasses_have_their_own():
    for wrong in ("a", None, 1.5, True):
        with pytest.raises(UsageError, match="width must be a whole number"):
            Base(wrong)
    assert Derived(2.0).layer.in_features == 2
    with pytest.raises(UsageError, match="width must be a whole number, got None"):
        Base.__init__(Derived(2.0), None)


def test_a_frozen_dataclass_checks_types_before_its_own_checks():
    with pytest.raises(UsageError, match="n must be a whole number, got 'a'"):
        Settings("a")
    with pytest.raises(UsageError, match="kind must be one of a, b, got 'c'"):
        replace(Settings(), kind="c")
    with pytest.raises(UsageError, match="n must be above zero"):
        Settings(0)
    assert copy.deepcopy(Settings(2)) == Settings(2)


def test_a_checked_module_compiles_copies_and_maps():
    module = Base(3)
    x = torch.ones(2, 3)
    compiled = torch.compile(copy.deepcopy(module), backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), module(x))


def test_only_constructors_of_ours_are_touched():
    before = nn.Linear.__init__

    class Plain(nn.Linear):
        pass

    checked(Plain)
    assert nn.Linear.__init__ is before


def test_a_guard_stands_at_the_door_for_functions_and_classes_alone():
    def double(n: int) -> int:
        return 2 * n

    namespace = {"__name__": "room", "double": double, "TABLE": {"a": 1}, "hidden": double}
    guard(namespace, ["double", "TABLE"])
    with pytest.raises(UsageError, match="n must be a whole number"):
        namespace["double"]("a")
    assert namespace["double"].__module__ == "room"
    assert namespace["hidden"] is double
    assert namespace["TABLE"] == {"a": 1}
