"""Runs and studies that are killed at random moments with SIGKILL, as by a machine that fails."""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wnrl.runs import is_finished, read_json

ROOT = Path(__file__).resolve().parents[1]
TIMES = {  # and zips have dates
    "wall_time", "steps_per_second", "images_per_second", "memory_mib", "files",
}  # fmt: skip
PPO = ["--env-id", "CartPole-v1", "--n-envs", "2", "--n-steps", "64", "--batch-size", "32"]
OFF_POLICY = ["--learning-starts", "100", "--batch-size", "32", "--net-arch", "32"]
# Each takes some seconds, and writes many checkpoints meanwhile.
RUNS = {
    "ppo": ["--algo", "ppo", *PPO, "--total-timesteps", "4096"],
    "a2c": ["--algo", "a2c", "--env-id", "CartPole-v1", "--total-timesteps", "6000"],
    "recurrent_ppo": ["--algo", "recurrent_ppo", *PPO[2:], "--env-id", "TMaze-v0",
                      "--total-timesteps", "2048"],
    "dqn": ["--algo", "dqn", "--env-id", "CartPole-v1", *OFF_POLICY, "--train-freq", "4",
            "--gradient-steps", "2", "--total-timesteps", "6000"],
    "sac": ["--algo", "sac", "--env-id", "Pendulum-v1", *OFF_POLICY, "--total-timesteps", "900"],
    "crossq": ["--algo", "crossq", "--env-id", "Pendulum-v1", *OFF_POLICY, "--critic-arch", "32",
               "--norm", "batch_renorm", "--total-timesteps", "700"],
    "vae": ["--model", "mlp", "--dataset", "digits", "--epochs", "60", "--n-samples", "10"],
}  # fmt: skip
STUDY = """
from wnrl.study.plan import NLL, RETURN, Arm, Study, Task

STUDY = Study(
    "kills",
    tasks=(
        Task("CartPole-v1", "ppo", "agents.run:train", RETURN,
             settings={"total_timesteps": 4096, "n_envs": 2, "n_steps": 64, "batch_size": 32}),
        Task("digits", "mlp", "wnrl.vae.run:train", NLL, settings={"epochs": 40}, length="epochs"),
    ),
    arms=(Arm("none", "none"), Arm("weight", "weight")),
    baseline="none",
    seeds=range(3),
)
"""


# A batch of an arm takes some twenty seconds.
POPULATION = STUDY.replace("seeds=range(3)", "seeds=range(8)").replace("4096", "16384")


def command(name, folder, *flags):
    program = "train_vae.py" if name == "vae" else "train_agent.py"
    flags = [*RUNS[name], "--run-dir", str(folder), "--checkpoint-minutes", "0.001", *flags]
    return [sys.executable, str(ROOT / "scripts" / program), *flags]


def start(words, log):
    with log.open("a") as file:
        return subprocess.Popen(words, cwd=ROOT, stdout=file, stderr=file, start_new_session=True)


def finish(words, log):
    assert start(words, log).wait(timeout=600) == 0, log.read_text()


def kill(process):
    """Kill a process and all that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def numbers(folder):
    """Return the result of a run without what a clock says."""
    return {key: value for key, value in read_json(folder / "result.json").items()
            if key not in TIMES}  # fmt: skip


def table(folder):
    """Return the rows of a study without what a clock, the memory or a kill decides."""
    apart = {"wall_time", "memory_mib", "steps_per_second", "retries", "retried"}
    with (folder / "table.csv").open() as file:
        return [{name: value for name, value in row.items()
                 if name not in apart and "equal_time" not in name}
                for row in csv.DictReader(file)]  # fmt: skip


def curves(folder):
    """Return every curve of a run but those that a clock makes."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith("time/")]
    return {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in tags}


def assert_same_curves(folder, expected):
    """No point is doubled or different, and none of the evaluations, lengths or bounds is lost.

    SB3's ``learn`` counts the updates between two of its own log lines from its call on, and
    ``Diagnostics`` the steps: these curves may have points at other steps.
    """
    curve, other = curves(folder), curves(expected)
    loose = ("train/", "rollout/", "norm/", "update_", "units_")
    for tag in other.keys() | curve.keys():
        points, expected_points = curve.get(tag, []), other.get(tag, [])
        if tag.startswith(loose):
            shared = dict(points).keys() & dict(expected_points).keys()
            points = [point for point in points if point[0] in shared]
            expected_points = [point for point in expected_points if point[0] in shared]
        assert points == expected_points, tag


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_is_killed_three_times_is_the_run_that_was_not(name, tmp_path):
    log, moments = tmp_path / "log", random.Random(name)
    finish(command(name, tmp_path / "whole"), log)
    kills = 0
    while kills < 3 and not is_finished(tmp_path / "parts"):
        process = start(command(name, tmp_path / "parts", "--resume"), log)
        before = (tmp_path / "parts" / "checkpoint.zip").exists()
        deadline = time.monotonic() + 60
        while not before and process.poll() is None and time.monotonic() < deadline:
            before = (tmp_path / "parts" / "checkpoint.zip").exists()
            time.sleep(0.02)
        time.sleep(moments.uniform(0.0, 1.0) + (3.0 if kills else 0.0))
        if process.poll() is None:
            kills += kill(process)
    assert kills, "it was over before it could be killed"
    finish(command(name, tmp_path / "parts", "--resume"), log)
    assert numbers(tmp_path / "parts") == numbers(tmp_path / "whole")
    assert_same_curves(tmp_path / "parts", tmp_path / "whole")
    assert "episodes begin anew" not in log.read_text()


@pytest.mark.slow
def test_a_study_that_is_killed_twenty_times_loses_doubles_and_redoes_nothing(tmp_path):
    (tmp_path / "kills.py").write_text(STUDY)
    log, moments = tmp_path / "log", random.Random(0)

    def study(folder):
        program = str(ROOT / "scripts" / "compare.py")
        return [sys.executable, program, str(tmp_path / "kills.py"), "--run-dir", str(folder)]

    done = {}
    for _ in range(20):
        process = start(study(tmp_path / "parts"), log)
        time.sleep(moments.uniform(2.0, 9.0))
        if process.poll() is None:
            kill(process)
        for result in (tmp_path / "parts").rglob("seed*/result.json"):
            state = (result.stat().st_mtime_ns, result.read_bytes())
            assert done.setdefault(result, state) == state, f"{result} was done again"
    finish(study(tmp_path / "parts"), log)
    finish(study(tmp_path / "whole"), log)
    for result in done:
        assert result.read_bytes() == done[result][1]
    tables = [table(tmp_path / folder) for folder in ("parts", "whole")]
    assert tables[0] == tables[1]
    whole = {path.parent.relative_to(tmp_path / "whole"): path.parent
             for path in (tmp_path / "whole").rglob("seed*/result.json")}  # fmt: skip
    assert len(whole) == 12
    for name, folder in whole.items():
        assert numbers(tmp_path / "parts" / name) == numbers(folder)
        assert_same_curves(tmp_path / "parts" / name, folder)


def workers_of(process):
    """Return the processes that train for a study."""
    pids = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            command = stat.with_name("cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == process.pid and b"spawn_main" in command:
            pids.append(int(stat.parent.name))
    return pids


@pytest.mark.slow
def test_a_study_of_batches_whose_workers_and_parent_are_killed_ten_times_has_the_same_rows(
    tmp_path,
):
    (tmp_path / "kills.py").write_text(POPULATION)
    log, moments = tmp_path / "log", random.Random(0)

    def study(folder):
        words = [str(tmp_path / "kills.py"), "--run-dir", str(folder), "--algos", "ppo"]
        program = [sys.executable, str(ROOT / "scripts" / "compare.py")]
        return [*program, *words, "--engine", "population", "--workers", "2"]

    process, kills = start(study(tmp_path / "parts"), log), 0
    while kills < 10:
        deadline = time.monotonic() + 120
        while process.poll() is None and not workers_of(process):
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        time.sleep(moments.uniform(0.5, 8.0))
        if process.poll() is not None:
            break
        if kills % 2:
            kill(process)
            process = start(study(tmp_path / "parts"), log)
        elif workers := workers_of(process):
            os.kill(workers[0], signal.SIGKILL)
        kills += 1
    assert kills == 10, "it was over before it could be killed"
    process.wait(timeout=600)
    finish(study(tmp_path / "parts"), log)
    finish(study(tmp_path / "whole"), log)
    tables = [table(tmp_path / folder) for folder in ("parts", "whole")]
    assert tables[0] == tables[1]
    assert [row["runs"] for row in tables[0]] == ["8", "8"]
    for whole in (tmp_path / "whole").rglob("seed*/result.json"):
        parts = tmp_path / "parts" / whole.parent.relative_to(tmp_path / "whole")
        assert_same_curves(parts, whole.parent)
