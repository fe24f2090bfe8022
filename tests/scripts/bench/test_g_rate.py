import re

import pytest
import torch

from scripts.bench.g_rate import ARMS, Args, main
from wnrl.errors import UsageError


def test_every_arm_has_a_row_with_each_of_its_seeds(capsys, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    main(Args(steps=120, seeds=2, bits=3))
    rows = re.findall(r"^\| (.+) \| \d+ \| \d+, \d+ \|$", capsys.readouterr().out, re.MULTILINE)
    assert rows == list(ARMS)


def test_flags_that_make_no_sense_are_refused():
    with pytest.raises(UsageError, match="seeds must be above zero"):
        Args(seeds=0)
