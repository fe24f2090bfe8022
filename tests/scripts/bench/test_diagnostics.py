import re

import numpy as np
import pytest
import torch

from scripts.bench import diagnostics
from scripts.bench.diagnostics import Args, main, row
from wnrl.errors import UsageError
from wnrl.sb3.diagnostics import EVERY


def test_a_small_run_prints_a_row(capsys, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    monkeypatch.setitem(diagnostics.TASKS, "ppo CartPole-v1", 256)
    main(Args(rounds=1, every=256, only="ppo", curvature=True))
    printed = capsys.readouterr().out
    assert re.search(r"^\| ppo CartPole-v1 \| \d+ \| \d\.\d{3} ± 0\.000 \| [1-9]", printed, re.M)


def test_the_row_shows_the_median_ratio_and_the_time_inside():
    cpu, nothing = np.array([10.0, 20.0, 10.0]), np.zeros(3)
    without = np.stack([2 * cpu, cpu, nothing, nothing], 1)
    watched = np.stack([2 * cpu, 1.01 * cpu, 0.005 * cpu, [2, 4, 2]], 1)
    shown = row("task", 1000, {"without": without, "with": watched})
    assert shown == ("task", "100", "1.010 ± 0.000", "0.50%", "25.0")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"rounds": 0}, "rounds must be above zero"),
        ({"norm": "wieght"}, "norm must be one of"),
        ({"only": "walker"}, "only must be part of ppo CartPole-v1, "),
    ],
)
def test_flags_that_make_no_sense_are_refused(flags, message):
    with pytest.raises(UsageError, match=message):
        Args(**flags)


def test_measurements_are_as_far_apart_as_the_callbacks_own_by_default():
    assert Args().every == EVERY
