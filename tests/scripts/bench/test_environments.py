import os
import re

from scripts.bench.environments import Args, main, processor_seconds


def test_a_small_run_prints_a_row(capsys):
    main(Args(env_ids=("CartPole-v1",), steps=2))
    row = r"^\| CartPole-v1 \| \d+ \| \d+ \| -?\d+ \| \d+; \d+ \|$"
    assert re.search(row, capsys.readouterr().out, re.M)


def test_the_seconds_of_other_processes_are_added():
    own = processor_seconds([])
    assert processor_seconds([os.getpid()]) > 1.5 * own
