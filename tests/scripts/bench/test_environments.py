import os
import re

import pytest

from scripts.bench.environments import Args, main, processor_seconds
from wnrl.errors import UsageError


def test_a_small_run_prints_a_row(capsys):
    main(Args(env_ids=("CartPole-v1",), n_envs=1, steps=2))
    row = r"^\| CartPole-v1 \| \d+ \| \d+ \| -?\d+ \| \d+; \d+ \|$"
    assert re.search(row, capsys.readouterr().out, re.M)


def test_the_seconds_of_other_processes_are_added():
    own = processor_seconds([])
    assert processor_seconds([os.getpid()]) > 1.5 * own


def test_no_steps_are_refused():
    with pytest.raises(UsageError, match="steps must be above zero"):
        Args(steps=0)
