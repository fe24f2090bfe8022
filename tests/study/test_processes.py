import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

# Workers are fresh interpreters; they find these runners by this file's name as a module.
sys.path.insert(0, str(Path(__file__).parent))
import fake_runner

from wnrl.runs import read_json
from wnrl.study import execute
from wnrl.study.attempts import carry_out
from wnrl.study.execute import Job
from wnrl.study.processes import Processes, _Worker

ARMS = {arm.name for arm in fake_runner.ARMS}
FUNCTIONS = (
    "succeed",
    "raise_on_weight",
    "die_on_weight",
    "hang_on_weight",
    "refuse_weight",
    "leave_no_result",
)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study with two workers and a task for each runner: its folder, and its events by runner."""
    root = tmp_path_factory.mktemp("study")
    trials = fake_runner.study_of(*FUNCTIONS).trials()
    events = {name: [] for name in FUNCTIONS}
    jobs = [Job((trial,)) for trial in trials]
    with closing(carry_out(jobs, Processes(root, 2), time_limit=8.0)) as news:
        for event in execute.noted(news, root):
            events[event.trial.task.name].append(event)
    return root, events


def ended(events):
    return {event.trial.arm.name for event in events if event.kind == "ended"}


def reasons(events, kind):
    return {event.reason for event in events if event.kind == kind}


def test_every_trial_ends_with_its_result(study):
    results = {e.trial.arm.name: e.result["arm"] for e in study[1]["succeed"] if e.kind == "ended"}
    assert results == {name: name for name in ARMS}


def test_one_process_takes_many_trials(study):
    events = study[1]["succeed"]
    assert len({event.result["pid"] for event in events if event.kind == "ended"}) <= 2


@pytest.mark.parametrize("arm", sorted(ARMS))
def test_progress_arrives_between_start_and_end(study, arm):
    kinds = [event.kind for event in study[1]["succeed"] if event.trial.arm.name == arm]
    assert kinds == ["started", "progress", "ended"]


def test_trial_that_raises_fails_alone_with_its_reason_in_plain_characters(study):
    root, events = study
    assert reasons(events["raise_on_weight"], "crashed") == {
        r"ZeroDivisionError: on\x1b[31m purpose"
    }
    assert ended(events["raise_on_weight"]) == ARMS - {"weight"}
    logs = "".join(log.read_text() for log in root.glob("worker*.log"))
    assert "Traceback" in logs


def test_trial_that_kills_its_process_fails_alone(study):
    events = study[1]["die_on_weight"]
    assert "killed by signal 9" in next(iter(reasons(events, "crashed")))
    assert ended(events) == ARMS - {"weight"}


def test_trial_that_hangs_in_c_is_ended_with_all_that_it_started(study):
    root, events = study
    assert reasons(events["hang_on_weight"], "crashed") == {"time limit: it took more than 8 s"}
    assert ended(events["hang_on_weight"]) == ARMS - {"weight"}
    assert len(noted(root)) == 1
    assert not alive(noted(root)[0])


def test_a_usage_error_costs_its_own_trial_and_is_told_without_its_class(study):
    assert reasons(study[1]["refuse_weight"], "crashed") == {"seed is wrong"}
    assert ended(study[1]["refuse_weight"]) == ARMS - {"weight"}


def test_a_runner_that_leaves_no_result_has_crashed(study):
    assert reasons(study[1]["leave_no_result"], "crashed") == {
        "fake_runner:leave_no_result returned and left no result.json"
    }


def test_leaving_the_loop_stops_the_workers(tmp_path):
    trials = fake_runner.study_of("sleep").trials()
    jobs = [Job((trial,)) for trial in trials]
    with closing(carry_out(jobs, Processes(tmp_path, 2))) as events:
        assert [next(events).kind, next(events).kind] == ["started", "started"]
        wait_for(lambda: len(noted(tmp_path)) == 2)
    assert not any(alive(pid) for pid in noted(tmp_path))


@pytest.fixture
def idle_worker(tmp_path):
    """A worker that was killed while it had nothing to do, which its parent has not seen yet."""
    worker = _Worker(tmp_path, (), tmp_path / "worker0.log")
    first, second = fake_runner.study_of("succeed", seeds=[0, 1]).trials()[::4]
    assert trained_by(worker, first, tmp_path)["seed"] == 0
    os.kill(worker.process.pid, signal.SIGKILL)
    worker.process.join()
    yield worker, second
    worker.kill()


def trained_by(worker, trial, root):
    """Its result."""
    worker.start(Job((trial,)))
    while worker.busy:
        kind, value = worker.receive()
    assert (kind, value) == ("ended", "")
    return read_json(root / trial.folder / "result.json")


def test_a_worker_that_died_while_idle_is_replaced_and_costs_no_run(idle_worker, tmp_path):
    worker, trial = idle_worker
    assert trained_by(worker, trial, tmp_path)["seed"] == 1


def test_a_worker_that_has_just_died_needs_no_stop(idle_worker, tmp_path):
    worker, _ = idle_worker
    worker.busy = True
    pool = Processes(tmp_path, 1)
    pool.workers = [worker]
    pool.stop(lambda: True)
    assert worker.process is None


def start(function, root, workers=1):
    """A study in a process and a group of its own, whose workers have begun to train."""
    study = subprocess.Popen(
        [sys.executable, fake_runner.__file__, str(root), function, str(workers)],
        start_new_session=True, stderr=subprocess.PIPE,
    )  # fmt: skip
    wait_for(lambda: len(noted(root)) == workers)
    return study


def stopped(study):
    """Its exit code and stderr."""
    try:
        _, stderr = study.communicate(timeout=60)
    finally:
        study.kill()
    return study.returncode, stderr.decode()


def test_workers_end_when_their_parent_is_killed(tmp_path):
    study = start("save_when_stopped", tmp_path)
    study.send_signal(signal.SIGKILL)
    wait_for(lambda: not any(alive(pid) for pid in noted(tmp_path)))
    stopped(study)


@pytest.mark.parametrize(
    ("number", "whole_group"),
    [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGHUP, True)],
)
def test_a_signal_lets_workers_write_their_checkpoints(tmp_path, number, whole_group):
    study = start("save_when_stopped", tmp_path, workers=2)
    (os.killpg if whole_group else os.kill)(study.pid, number)
    code, stderr = stopped(study)
    assert code == 128 + number
    assert "Traceback" not in stderr
    assert len(list(tmp_path.rglob("checkpoint"))) == 2
    assert not any(alive(pid) for pid in noted(tmp_path))


def test_a_second_signal_ends_at_once_what_does_not_stop(tmp_path):
    study = start("never_stop", tmp_path)
    study.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert study.poll() is None
    study.send_signal(signal.SIGINT)
    begun = time.monotonic()
    code, stderr = stopped(study)
    assert time.monotonic() - begun < 3  # it would take many times that without
    assert code == 130
    assert stderr.splitlines() == [
        "stopping after this update; once more stops at once",
        "stopping at once",
    ]
    assert not any(alive(pid) for pid in noted(tmp_path))


def test_a_runner_that_cannot_save_is_stopped_at_once(tmp_path):
    study = start("sleep", tmp_path)
    study.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    assert stopped(study)[0] == 143
    assert time.monotonic() - begun < 10


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def noted(root):
    return [int(path.stem) for path in root.rglob("*.begun")]


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
