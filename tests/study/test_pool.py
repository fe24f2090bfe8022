import signal
import subprocess
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from wnrl.study.plan import RETURN, Task, plan
from wnrl.study.pool import run_jobs

# Workers are fresh interpreters; they find these targets by this file's name as a module.
sys.path.insert(0, str(Path(__file__).parent))
import pool_targets

NORMS = ("none", "weight", "batch", "layer")
JOBS = plan([Task("CartPole-v1", "ppo", "agent", RETURN, NORMS)], 1)


def run(target, tmp_path, workers=2):
    with closing(run_jobs(JOBS, target, workers=workers, log_dir=tmp_path)) as events:
        return list(events)


def ended(events, kind):
    return {event.job.norm for event in events if event.kind == kind}


def test_every_job_ends_with_its_result(tmp_path):
    events = run(pool_targets.succeed, tmp_path)
    results = {event.job.norm: event.result for event in events if event.kind == "ended"}
    assert results == {norm: {"norm": norm} for norm in NORMS}


def test_one_process_takes_many_jobs(tmp_path):
    events = run(pool_targets.report_process, tmp_path)
    assert len({event.result["pid"] for event in events if event.kind == "ended"}) <= 2


FIRST_WORKERS = """
import sys, pathlib
sys.path.insert(0, {folder!r})
import test_pool
events = test_pool.run(test_pool.pool_targets.report_blocked_signals, pathlib.Path({logs!r}))
print(*(event.result["blocked"] for event in events if event.kind == "ended"))
"""


def test_ctrl_c_reaches_no_worker_not_even_the_first_of_a_process(tmp_path):
    code = FIRST_WORKERS.format(folder=str(Path(__file__).parent), logs=str(tmp_path))
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert child.stdout.split() == [f"[{int(signal.SIGINT)}]"] * len(JOBS)


def test_progress_arrives_between_start_and_end(tmp_path):
    kinds = [event.kind for event in run(pool_targets.succeed, tmp_path, workers=1)]
    assert kinds == ["started", "progress", "ended"] * 4


def test_job_that_raises_fails_alone_with_its_reason(tmp_path):
    events = run(pool_targets.raise_on_weight, tmp_path)
    assert [e.reason for e in events if e.kind == "crashed"] == ["ZeroDivisionError: on purpose"]
    assert ended(events, "ended") == {"none", "batch", "layer"}
    logs = "".join(log.read_text() for log in tmp_path.glob("worker*.log"))
    assert "Traceback" in logs


def test_job_that_kills_its_process_fails_alone(tmp_path):
    events = run(pool_targets.die_on_weight, tmp_path)
    assert "killed by signal 9" in next(e.reason for e in events if e.kind == "crashed")
    assert ended(events, "ended") == {"none", "batch", "layer"}


def test_usage_error_is_told_apart_from_a_crash(tmp_path):
    events = run(pool_targets.refuse, tmp_path)
    assert {event.reason for event in events if event.kind == "refused"} == {"seed is wrong"}


def test_leaving_the_loop_stops_the_workers(tmp_path):
    target = partial(pool_targets.note_process_and_sleep, folder=tmp_path)
    with closing(run_jobs(JOBS, target, workers=2, log_dir=tmp_path)) as events:
        assert [next(events).kind, next(events).kind] == ["started", "started"]
        wait_for(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
    assert not any(alive(pid) for pid in noted(tmp_path))


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_when_their_parent_is_killed(tmp_path, sign):
    parent = subprocess.Popen([sys.executable, pool_targets.__file__, str(tmp_path)])
    try:
        wait_for(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
    finally:
        parent.send_signal(sign)
        parent.wait(10)
    wait_for(lambda: not any(alive(pid) for pid in noted(tmp_path)))


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def noted(folder):
    return [int(path.stem) for path in folder.glob("*.pid")]


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
