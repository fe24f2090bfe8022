import re

import numpy as np
import pytest
import torch
from torch import nn

from scripts.bench.layers import ALTERNATIVES, TRAIN, WORKLOADS, Args, Candidate, main, show
from wnrl.errors import UsageError

CPU = torch.device("cpu")
LSTM = next(w for w in WORKLOADS if w.name.startswith("LSTM") and "calls" in w.name)


def test_a_small_run_prints_every_table_with_plain_first(capsys, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    main(Args(seconds=0.01, only="3x64, batch 8"))
    printed = capsys.readouterr().out
    for title in ("Forward without grad", "Train step", "Kept for the backward"):
        assert title in printed
    _, row, _ = re.findall(r"^\| MLP 3x64, batch 8 \| \d+ \| (.*) \|$", printed, re.M)
    assert len(row.split(" | ")) == len([a for a in ALTERNATIVES if TRAIN in a.tables]) - 1
    assert "–" not in row


def test_the_table_shows_the_median_of_ratios_within_rounds(capsys):
    times = {"plain": np.array([1.0, 2.0, 4.0]), "ours": np.array([2.0, 4.0, 8.0])}
    show(TRAIN, {"row": times})
    lines = capsys.readouterr().out.splitlines()
    assert "| row | 2000000 | 2.00 ± 0.00 | – |" in lines[2]
    assert "| **geometric mean** |  | 2.000 | – |" in lines[-1]


def test_every_alternative_but_the_normalisers_starts_as_the_plain_function():
    args = Args()
    for workload in (WORKLOADS[0], LSTM):
        outputs = {}
        for chosen in ALTERNATIVES[:6]:
            candidate = Candidate(workload, chosen, args, CPU)
            with torch.no_grad():
                outputs[chosen.name] = candidate.call(candidate.net, torch.ones(workload.shape))
        for output in outputs.values():
            torch.testing.assert_close(output, outputs["plain"])


def test_the_bytes_kept_leave_parameters_and_input_out():
    candidate = Candidate(WORKLOADS[1], ALTERNATIVES[0], Args(), CPU)
    candidate.net = nn.Sequential(nn.Linear(32, 10), nn.Tanh())
    rows = candidate.x.shape[0]
    assert candidate.kept_bytes() == rows * 10 * 4  # tanh and the square keep one tensor: y


def test_batch_norm_is_left_out_where_it_does_not_exist():
    fits = ALTERNATIVES[-1].fits
    assert not fits(WORKLOADS[0].shape)
    assert not fits(LSTM.shape)
    assert fits(WORKLOADS[1].shape)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        Candidate(WORKLOADS[0], ALTERNATIVES[-1], Args(), CPU).step()


def test_a_name_that_no_row_has_is_refused():
    with pytest.raises(UsageError, match="only must be part of the name of a row"):
        main(Args(only="transformer"))
