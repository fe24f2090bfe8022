import time

import numpy as np

from scripts.bench._rounds import CPU, WALL, cell, clocked, interleaved, ratio, table


def test_a_round_calls_each_arm_once_in_an_order_that_rotates():
    called = []
    arms = {name: lambda name=name: called.append(name) or len(called) for name in "abc"}
    times = interleaved(arms, rounds=2, warm_up=1)
    assert called == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert {name: values.tolist() for name, values in times.items()} == {
        "a": [6, 8], "b": [4, 9], "c": [5, 7],
    }  # fmt: skip


def test_rounds_go_on_until_the_time_behind_the_warm_up_is_over():
    times = interleaved({"a": lambda: time.sleep(0.02) or 1.0}, rounds=1, warm_up=5, seconds=0.5)
    assert 2 <= len(times["a"]) <= 25


def test_sleeping_takes_time_on_the_wall_but_none_of_the_cpu():
    times = clocked(lambda: time.sleep(0.2))
    assert times[WALL] > 0.19
    assert times[CPU] < 0.1


def test_ratios_are_taken_within_rounds():
    own, twice = np.array([1.0, 2.0, 4.0]), np.array([2.0, 4.0, 8.0])
    assert ratio(twice, own) == (2.0, 0.0)
    assert ratio(np.ones(3), np.array([1.0, 0.5, 0.25])) == (2.0, np.subtract(3.0, 1.5) / 2)
    assert cell(own, twice, digits=3) == "0.500 ± 0.000"


def test_a_table_is_markdown(capsys):
    table(("", "a"), [["row", "1"]])
    assert capsys.readouterr().out == "|  | a |\n|---|---|\n| row | 1 |\n"
