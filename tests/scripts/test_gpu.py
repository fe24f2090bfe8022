"""``scripts/gpu.sh``: every step is bounded, and a file of tables comes out in any case."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STUB = """#!/bin/sh
case "$*" in
  *versions*) echo "- gpu: a stub" ;;
  *layers.py*) echo "bad luck" >&2; exit 3 ;;
  *bench/vae.py*) exec sleep 30 ;;
  *) echo "| $1 |"; echo "not for the file" ;;
esac
"""


@pytest.fixture
def stub(tmp_path):
    """A program in Python's place."""
    path = tmp_path / "python"
    path.write_text(STUB)
    path.chmod(0o755)
    return str(path)


def run(out, *words, **environment):
    command = ["bash", "scripts/gpu.sh", "--out", out, *words]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )


def test_failing_and_endless_steps_leave_the_tables_of_the_others(tmp_path, stub):
    done = run(tmp_path / "out", "--minutes", "0.5", "--device", "cpu", PYTHON=stub)
    assert done.returncode == 1, done.stderr
    text = (tmp_path / "out" / "results.md").read_text()
    assert "- gpu: a stub" in text
    steps = {part.split("\n")[0]: part for part in text.split("\n## ")[1:]}
    assert "| scripts/bench/population.py |" in steps["populations"]
    assert "\npython scripts/bench/population.py --device cpu --members 8" in steps["populations"]
    assert "**failed** (exit status 3)" in steps["layers"]
    assert "bad luck" in steps["layers"]
    assert "stopped after" in steps["vae-mlp"]
    assert "| scripts/train_vae.py |" in steps["study-of-a-vae"]
    assert "not for the file" not in text
    assert text.endswith("1 steps failed, 2 were stopped\n")


def test_a_wrong_flag_is_one_line_and_exit_2(tmp_path):
    for words in (("--minuts", "3"), ("--minutes", "many"), ("--device",), ("agents", "layer")):
        done = run(tmp_path / "out", *words)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_chosen_steps_alone_are_done(tmp_path, stub):
    done = run(tmp_path / "out", "--device", "cpu", "populations", "runs", PYTHON=stub)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out" / "results.md").read_text()
    assert [part.split("\n")[0] for part in text.split("\n## ")[1:]] == ["runs", "populations"]
    assert "--device cpu populations runs`" in text


@pytest.mark.slow
def test_it_runs_on_a_cpu(tmp_path):
    done = run(tmp_path / "out", "--minutes", "4", "--device", "cpu", PYTHON=sys.executable)
    text = (tmp_path / "out" / "results.md").read_text()
    assert "**failed**" not in text.partition("## checks")[2].partition("## runs")[2], text
    assert "| none | 3 |" in text, done.stderr
