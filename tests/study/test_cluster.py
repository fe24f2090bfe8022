"""Studies on a Ray cluster of this machine, run by the program in a process of its own."""

import csv
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from wnrl.runs import read_json
from wnrl.runs.folder import crashes

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
RUNS = 12
STUDY = """
import ctypes
import os
import time
from pathlib import Path

from wnrl.runs import Interrupts, Stopped, open_run
from wnrl.study import RETURN, Arm, Study, Task

STARTS = Path(__file__).parent / "starts"


def settings(trial):
    return {"norm": trial.arm.norm, "seed": trial.seed, **trial.settings}


def train(trial, folder, progress):
    with (STARTS / f"{trial.arm.name}{trial.seed}").open("a") as file:
        print(os.getpid(), file=file)
    if trial.settings["hang"] == f"{trial.arm.name}{trial.seed}":
        ctypes.PyDLL(None).sleep(300)
    with Interrupts() as interrupts, open_run(folder, settings(trial)) as run:
        for k in range(round(10 * trial.settings["seconds"])):
            time.sleep(0.1)
            progress(0.1 * k / trial.settings["seconds"])
            if interrupts.received:
                (folder / "checkpoint.zip").touch()
                raise Stopped(interrupts.received, "saved")
        result = {"status": "finished", "window_return": trial.seed + 0.5}
        run.write_result(result)
    return result


STUDY = Study(
    "own",
    [Task("task", "algo", "own_study:train", RETURN, {"seconds": 4.0, "hang": ""})],
    [Arm("none"), Arm("weight")],
    baseline="none",
    seeds=range(6),
)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "starts").mkdir()
    (tmp_path / "own_study.py").write_text(STUDY)
    return tmp_path


def set_study(folder, **values):
    (folder / "own_study.py").write_text(f"{STUDY}\nSTUDY.tasks[0].settings.update({values!r})\n")


def start(folder, *words):
    program = [sys.executable, str(ROOT / "scripts" / "compare.py"), str(folder / "own_study.py")]
    return subprocess.Popen(
        [*program, "--run-dir", str(folder / "study"), "--executor", "ray", *words],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def ended(study, seconds=240):
    try:
        _, err = study.communicate(timeout=seconds)
    finally:
        study.kill()
    return study.returncode, err


def wait_for(condition, seconds=200):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def starts(folder):
    """Return the processes that have begun each run."""
    return {path.name: [*map(int, path.read_text().split())]
            for path in (folder / "starts").iterdir()}  # fmt: skip


def alive(pid):
    return Path(f"/proc/{pid}/fd").is_dir() and bool(Path(f"/proc/{pid}/cmdline").read_bytes())


def results(folder):
    return [read_json(path) for path in folder.rglob("result.json")]


def children(pid):
    return {int(path.parent.name) for path in Path("/proc").glob("[0-9]*/stat")
            if path.read_text().rpartition(")")[2].split()[1] == str(pid)}  # fmt: skip


@contextmanager
def two_nodes():
    """Yield a head and another node, of a CPU each, and the address."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    try:
        node = cluster.add_node(num_cpus=1)
        yield node, cluster.address
    finally:
        cluster.shutdown()


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_node_that_is_killed_with_its_workers_costs_a_retry_and_no_run(folder):
    with two_nodes() as (node, address):
        study = start(folder, "--address", address)
        raylet = node.all_processes["raylet"][0].process.pid
        wait_for(lambda: any({*pids} & children(raylet) for pids in starts(folder).values()))
        time.sleep(1)  # in the middle of a run of 4 s
        for pid in [raylet, *children(raylet)]:
            os.kill(pid, signal.SIGKILL)
        code, err = ended(study)
    assert code == 0, err
    assert sorted(len(pids) for pids in starts(folder).values()) == [1] * (RUNS - 1) + [2]
    assert len(results(folder)) == RUNS
    lost = [why for run in (folder / "study").glob("task/algo/*/*") if (why := crashes(run))]
    assert [len(reasons) for reasons in lost] == [1]
    assert "NodeDiedError" in lost[0][0]
    with (folder / "study" / "table.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert sorted(row["retries"] for row in rows) == ["0", "1"]
    assert [row["runs"] for row in rows] == [str(RUNS // 2)] * 2
    assert f"[{RUNS}/{RUNS}]" in err
    assert "tried again, NodeDiedError" in err


def test_ctrl_c_lets_runs_save_and_the_same_command_goes_on(folder):
    set_study(folder, seconds=30.0)
    study = start(folder, "--workers", "2")
    wait_for(lambda: len(starts(folder)) == 2)
    time.sleep(2)
    study.send_signal(signal.SIGINT)
    code, err = ended(study)
    assert code == 130, err
    assert "the same command goes on from here" in err
    assert "Traceback" not in err
    assert len(list(folder.rglob("checkpoint.zip"))) == 2
    assert not any(alive(pid) for pids in starts(folder).values() for pid in pids)
    assert not list((folder / "study").glob(".ray*"))


def test_a_run_that_hangs_in_c_is_ended_by_the_time_limit_on_ray_too(folder):
    set_study(folder, seconds=0.1, hang="weight3")
    code, err = ended(start(folder, "--workers", "2", "--time-limit", "15"))
    assert code == 1, err
    assert len(results(folder)) == RUNS - 1
    assert crashes(folder / "study/task/algo/weight/seed3") == [
        "time limit: it took more than 15 s"
    ]
    assert not any(alive(pid) for pids in starts(folder).values() for pid in pids)
