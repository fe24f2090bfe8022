"""The session with the smallest work that there is: a sum of random numbers."""

import errno
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from wnrl.errors import NonFiniteError, UsageError
from wnrl.runs import Meaning, Options, Stopped, carry_out, is_finished, read_config, read_json

MEANING = Meaning(("steps",), lambda settings: settings["steps"], lambda settings: {"film": [1, 0]})
FILES = ("sum.txt",)


class Sum:
    """Adds random numbers; anything can be made to happen at a step."""

    def __init__(self, steps, at=lambda work: None, measuring=lambda work: None):
        self.machine = {"device": "cpu", "threads": 1}
        self.identity = {"task": "numbers", "algo": "sum"}
        self.metrics = {"eval/final_return": "score"}
        self.total_steps, self.step, self.total = steps, 0, 0.0
        self.random = random.Random(0)
        self.at, self.measuring = at, measuring
        self.curve = {"steps": [], "sums": []}

    def state(self):
        if self.total != self.total:
            raise NonFiniteError("the sum is NaN")
        return {**{k: getattr(self, k) for k in ("step", "total", "curve")},
                "random": self.random.getstate()}  # fmt: skip

    def restore(self, state):
        self.step, self.total, self.curve = state["step"], state["total"], state["curve"]
        self.random.setstate(state["random"])
        return ""

    def train(self, events, between):
        while self.step < self.total_steps:
            between()
            self.total += self.random.random()
            self.step += 1
            self.curve["steps"].append(self.step)
            self.curve["sums"].append(self.total)
            events.add_scalar("sum", self.total, self.step)
            if self.step == 1:
                events.add_scalar("units_dead/first", self.total, self.step)
            self.at(self)

    def report(self):
        return {"steps": self.step, "curve": self.curve}

    def measure(self, folder):
        (folder / "sum.txt").write_text(str(self.total))
        self.measuring(self)
        return {"score": self.total}


def run(path, steps=10, settings=None, *, resume=False, minutes=0.0, keep=True, **happens):
    settings = {"steps": steps, "norm": "weight", "device": "auto", **(settings or {})}
    built = []

    def build():
        built.append(Sum(steps, **happens))
        return built[-1]

    options = Options(resume=resume, checkpoint_minutes=minutes, keep_checkpoint=keep)
    return carry_out(Path(path), settings, build, MEANING, FILES, options)


def when(step, act):
    return lambda work: act() if work.step == step else None


def send(number):
    return lambda *_: os.kill(os.getpid(), number)


def curve(path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(path))
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars("sum")]


def numbers(result):
    return {k: v for k, v in result.items() if k not in ("wall_time", "memory_mib")}


def test_a_result_says_what_the_run_cost_in_memory(tmp_path):
    held = b"x" * 2**26
    with_it = run(tmp_path / "a")["memory_mib"]
    del held
    without = run(tmp_path / "b")["memory_mib"]
    assert without < with_it - 32


def test_a_run_ends_with_its_result_and_the_checksums_of_its_files(tmp_path):
    result = run(tmp_path)
    assert result["status"] == "finished"
    assert result["score"] == result["curve"]["sums"][-1]
    assert set(read_json(tmp_path / "result.json")["files"]) == {"sum.txt"}
    assert read_config(tmp_path)["device"] == "cpu"


def test_a_finished_run_is_shown_and_not_done_again_which_is_said(tmp_path, capsys):
    first = run(tmp_path)
    assert capsys.readouterr().err == ""
    assert run(tmp_path, at=when(1, lambda: pytest.fail("trained again"))) == first
    assert capsys.readouterr().err == f"run_dir {tmp_path} has ended: nothing is trained\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(tmp_path, number, capsys):
    whole = run(tmp_path / "whole")
    with pytest.raises(Stopped, match=str(128 + number)) as stopped:
        run(tmp_path / "parts", minutes=10, at=when(4, send(number)))
    assert stopped.value.message == "stopped at step 4 of 10; --resume goes on from here"
    assert numbers(run(tmp_path / "parts", resume=True)) == numbers(whole)
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")
    assert "resumed at step 4 of 10" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("minutes", "how"),
    [(0.0, "--resume goes on from the last checkpoint"), (10, "nothing is saved")],
)
def test_an_update_that_a_signal_breaks_is_a_stop_in_words(tmp_path, minutes, how):
    def break_off():
        os.kill(os.getpid(), signal.SIGINT)
        raise RuntimeError("C++ compile error\n  |  ^~~~")

    whole = run(tmp_path / "whole")
    with pytest.raises(Stopped, match="130") as stopped:
        run(tmp_path / "parts", minutes=minutes, at=when(4, break_off))
    told = stopped.value.message
    assert told == f"stopped in the middle of an update: C++ compile error; {how}"
    assert numbers(run(tmp_path / "parts", resume=True)) == numbers(whole)


def test_an_update_that_breaks_by_itself_is_raised(tmp_path):
    def break_off():
        raise RuntimeError("of the program")

    with pytest.raises(RuntimeError, match="of the program"):
        run(tmp_path, at=when(4, break_off))


@pytest.mark.parametrize("keep", [True, False])
def test_a_stop_while_measuring_trains_nothing_again(tmp_path, keep):
    with pytest.raises(Stopped) as stopped:
        run(tmp_path, keep=keep, measuring=send(signal.SIGTERM))
    assert stopped.value.message == "stopped after the last step; --resume measures again"
    result = run(tmp_path, resume=True, keep=keep, at=lambda work: pytest.fail("trained again"))
    assert (result["status"], result["steps"]) == ("finished", 10)
    assert (tmp_path / "checkpoint.zip").exists() == keep


def test_a_stopped_run_without_resume_says_how_to_go_on(tmp_path):
    with pytest.raises(Stopped):
        run(tmp_path, at=when(4, send(signal.SIGINT)))
    with pytest.raises(UsageError, match="stopped at step 4 of 10: --resume goes on"):
        run(tmp_path)


def test_a_finished_run_is_extended_and_says_so(tmp_path, capsys):
    longer = run(tmp_path / "longer", 15)
    run(tmp_path / "x", 10)
    with pytest.raises(UsageError, match="finished run of 10 steps; --resume extends it to 15"):
        run(tmp_path / "x", 15)
    assert numbers(run(tmp_path / "x", 15, resume=True)) == numbers(longer)
    assert read_config(tmp_path / "x")["extended_from"] == [10]
    assert numbers(run(tmp_path / "x", 15)) == numbers(longer)
    assert "schedules are over all 15 steps, not over 10" in capsys.readouterr().err


def test_other_settings_are_refused_before_anything_is_built(tmp_path):
    run(tmp_path)
    for resume in (False, True):
        with pytest.raises(UsageError, match=r"norm='weight' \(asked: 'none'\)"):
            run(tmp_path, settings={"norm": "none"}, resume=resume)


def test_a_folder_older_than_a_setting_counts_as_having_its_default(tmp_path):
    whole = run(tmp_path / "whole")
    default, other = ({"film": value} for value in ((1, 0), (0, 0)))
    assert run(tmp_path / "whole", settings=default) == whole
    with pytest.raises(Stopped):
        run(tmp_path / "parts", at=when(4, send(signal.SIGINT)))
    for resume in (False, True):
        with pytest.raises(UsageError, match=r"film=None \(asked: \[0, 0\]\)"):
            run(tmp_path / "parts", settings=other, resume=resume)
    assert numbers(run(tmp_path / "parts", settings=default, resume=True)) == numbers(whole)
    assert numbers(run(tmp_path / "new", settings=default)) == numbers(whole)
    assert read_config(tmp_path / "new")["film"] == [1, 0]


def test_a_run_of_another_program_is_refused_without_advice_to_delete_it(tmp_path):
    run(tmp_path)
    with pytest.raises(UsageError, match=r"of another program: its .* has no epochs") as refused:
        carry_out(tmp_path, {"epochs": 3}, Sum, Meaning(("epochs",), lambda s: s["epochs"]), FILES)
    assert "delete" not in str(refused.value)


def test_a_nan_in_training_ends_the_run_in_words_and_leaves_the_last_good_checkpoint(tmp_path):
    def act(work):
        if work.step == 5:
            work.total = float("nan")
            raise NonFiniteError("the sum is NaN after 5 steps")

    result = run(tmp_path, at=act)
    assert (result["status"], result["reason"]) == ("failed", "the sum is NaN after 5 steps")
    assert result["steps"] == 5
    assert run(tmp_path, resume=True) == result


def test_a_nan_that_is_measured_ends_the_run_in_words(tmp_path):
    result = run(tmp_path, measuring=lambda work: setattr(work, "total", float("inf")))
    assert (result["status"], result["reason"]) == ("failed", "score is inf")
    assert "score" not in result
    assert is_finished(tmp_path)


def test_a_full_disk_costs_a_checkpoint_and_no_more(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("wnrl.runs.session.write_values", full)
        result = run(tmp_path)
    assert result["status"] == "finished"
    assert "no checkpoint at step" in capsys.readouterr().err


def test_a_full_disk_at_the_end_is_told_in_a_line_and_the_run_can_be_ended_later(tmp_path):
    def full(work):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UsageError, match=r"No space left on device; .* --resume goes on"):
        run(tmp_path, measuring=full)
    result = run(tmp_path, resume=True, at=lambda work: pytest.fail("trained again"))
    assert result["status"] == "finished"


def test_a_damaged_checkpoint_is_refused_and_nothing_is_lost(tmp_path):
    with pytest.raises(Stopped):
        run(tmp_path, at=when(4, send(signal.SIGINT)))
    checkpoint = bytearray((tmp_path / "checkpoint.zip").read_bytes())
    checkpoint[len(checkpoint) // 2] ^= 1
    (tmp_path / "checkpoint.zip").write_bytes(checkpoint)
    with pytest.raises(UsageError, match=r"checkpoint\.zip is damaged"):
        run(tmp_path, resume=True)
    assert (tmp_path / "checkpoint.zip").read_bytes() == bytes(checkpoint)


def test_a_run_that_is_killed_at_any_moment_loses_and_doubles_nothing(tmp_path):
    program = textwrap.dedent("""
        import sys, time
        from tests.runs.test_session import run
        run(sys.argv[1], steps=60, resume=True, at=lambda work: time.sleep(0.08))
    """)
    command = [sys.executable, "-c", program, str(tmp_path / "parts")]
    root = Path(__file__).resolve().parents[2]
    kills, moments = 0, random.Random(0)
    for _ in range(40):
        process = subprocess.Popen(command, cwd=root, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while not (tmp_path / "parts" / "config.json").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(moments.uniform(0.0, 0.6) + (1.0 if kills else 0.0))
        process.kill()
        kills += process.wait() == -signal.SIGKILL
        if is_finished(tmp_path / "parts") or kills == 3:
            break
    assert kills == 3
    result = run(tmp_path / "parts", 60, resume=True)
    assert numbers(result) == numbers(run(tmp_path / "whole", 60))
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")
