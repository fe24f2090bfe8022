import re

import numpy as np
import torch

from scripts.bench import diagnostics
from scripts.bench.diagnostics import Args, main, row


def test_a_small_run_prints_a_row(capsys, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    monkeypatch.setattr(diagnostics, "TASKS", {"ppo CartPole-v1": 2048})
    main(Args(rounds=1))
    printed = capsys.readouterr().out
    assert re.search(r"^\| ppo CartPole-v1 \| \d+ \| \d\.\d{3} ± 0\.000 \| \d", printed, re.M)


def test_the_row_shows_the_median_ratio_and_the_time_inside():
    cpu, nothing = np.array([10.0, 20.0, 10.0]), np.zeros(3)
    without = np.stack([2 * cpu, cpu, nothing, nothing], 1)
    watched = np.stack([2 * cpu, 1.01 * cpu, 0.005 * cpu, [2, 4, 2]], 1)
    shown = row("task", 1000, {"without": without, "with": watched})
    assert shown == ("task", "100", "1.010 ± 0.000", "0.50%", "25.0")
