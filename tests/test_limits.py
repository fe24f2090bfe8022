from dataclasses import dataclass
from inspect import signature
from typing import Annotated, Literal

import numpy as np
import pytest

from wnrl.errors import UsageError
from wnrl.limits import Fraction, Limited, NormKey, Sizes, Whole, one_of
from wnrl.norms import NORMS

TABLE = {"a": 1}


@dataclass(frozen=True)
class Config(Limited):
    n: Whole = 1
    n_more: Whole | None = None
    share: Fraction = 0.5
    sizes: Sizes = (1,)
    kind: Literal["a", "b"] = "a"
    norms: tuple[NormKey, ...] = ()
    row: Annotated[str, one_of(f"{__name__}:TABLE")] = "a"
    number: float | str = 1.0
    path: Annotated[str | None, "a note of another library"] = None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n": 0}, "n must be above zero, got 0"),
        ({"n": True}, "n must be a whole number, got True"),
        ({"n": None}, "n must be a whole number, got None"),
        ({"n_more": "0"}, "n_more must be a whole number or None, got '0'"),
        ({"n_more": 0}, "n_more must be above zero, got 0"),
        ({"share": "all"}, "share must be a number, got 'all'"),
        ({"number": None}, "number must be a number or a string, got None"),
        ({"share": 1.5}, "share must be from 0 to 1, got 1.5"),
        ({"sizes": [1, 0]}, r"sizes must be whole sizes above zero, got \(1, 0\)"),
        ({"kind": "c"}, "kind must be one of a, b, got 'c'"),
        ({"norms": ("none", "wieght")}, r"norms\[1\] must be one of .*did you mean 'weight'"),
        ({"kind": "B"}, "kind must be one of a, b, got 'B'; did you mean 'b'"),
        ({"row": "b"}, "row must be one of a, got 'b'"),
    ],
)
def test_a_value_beyond_the_limit_in_its_type_is_refused_by_name(values, message):
    with pytest.raises(UsageError, match=f"^{message}"):
        Config(**values)


def test_a_signature_shows_limits_in_words():
    shown = str(signature(Config))
    assert "Annotated[int, above zero]" in shown
    assert f"Annotated[str, one of {__name__}:TABLE]" in shown


def test_what_is_within_the_limits_is_taken_as_python_has_it():
    config = Config(n=np.int64(3), n_more=2, sizes=[4, 5], norms=["none"], number="any")
    assert (config.n, config.n_more, config.sizes, config.norms) == (3, 2, (4, 5), ("none",))
    assert type(config.n) is int


def test_a_row_that_is_added_to_a_table_is_known(monkeypatch):
    monkeypatch.setitem(NORMS, "mine", NORMS["none"])
    monkeypatch.setitem(TABLE, "b", 2)
    assert Config(norms=("mine",), row="b").row == "b"
