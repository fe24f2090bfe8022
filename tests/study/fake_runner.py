"""Runners for tests, importable by worker processes."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from wnrl.errors import UsageError
from wnrl.runs import Interrupts, Stopped, open_run
from wnrl.study.attempts import carry_out
from wnrl.study.execute import Job
from wnrl.study.plan import RETURN, Arm, Study, Task
from wnrl.study.processes import Processes

ARMS = tuple(Arm(norm) for norm in ("none", "weight", "batch", "layer"))


def study_of(*functions, **changes):
    """A study with a task for each of these runners."""
    tasks = [Task(function, "ppo", f"fake_runner:{function}", RETURN) for function in functions]
    return Study(**{"name": "fake", "tasks": tasks, "arms": ARMS, "baseline": "none",
                    "seeds": [0], **changes})  # fmt: skip


def settings(trial):
    rate = trial.settings.get("learning_rate", 1)
    if not isinstance(rate, int | float) or rate <= 0:
        raise UsageError(f"learning_rate must be above zero, got {rate!r}")
    return {"task": trial.task.name, "norm": trial.arm.norm, "seed": trial.seed, **trial.settings}


def finish(trial, folder, **result):
    result = {"status": "finished", "window_return": 1.0, **result}
    with open_run(folder, settings(trial)) as run:
        run.write_result(result)
    return result


def succeed(trial, folder, progress):
    progress(0.5)
    return finish(trial, folder, arm=trial.arm.name, seed=trial.seed, pid=os.getpid())


def leave_no_result(trial, folder, progress):
    return {"status": "finished", "window_return": 1.0}


def raise_on_weight(trial, folder, progress):
    if trial.arm.name == "weight":
        raise ZeroDivisionError("on\x1b[31m purpose")
    return finish(trial, folder)


def die_on_weight(trial, folder, progress):
    if trial.arm.name == "weight":
        os.kill(os.getpid(), signal.SIGKILL)
    return finish(trial, folder)


def refuse_weight(trial, folder, progress):
    if trial.arm.name == "weight":
        raise UsageError("seed is wrong")
    return finish(trial, folder)


def sleep(trial, folder, progress):
    note(folder, "begun")
    time.sleep(120)


def hang_on_weight(trial, folder, progress):
    """Hang in C, where no other thread of the process can run, and leave a process behind."""
    if trial.arm.name == "weight":
        child = subprocess.Popen(["sleep", "120"])
        folder.mkdir(parents=True)
        (folder / f"{child.pid}.begun").touch()
        ctypes.PyDLL(None).sleep(120)
    return finish(trial, folder)


def save_when_stopped(trial, folder, progress):
    """Train in steps of half a second, and leave a checkpoint after the step with the signal."""
    with Interrupts() as interrupts:
        note(folder, "begun")
        while interrupts.received is None:
            time.sleep(0.5)
        (folder / "checkpoint").touch()
        raise Stopped(interrupts.received, "saved")


def never_stop(trial, folder, progress):
    with Interrupts():
        note(folder, "begun")
        for _ in range(1000):
            time.sleep(0.1)


def note(folder, name):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{os.getpid()}.{name}").touch()


if __name__ == "__main__":
    root, function, workers = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    jobs = [Job((trial,)) for trial in study_of(function).trials()]
    for _event in carry_out(jobs, Processes(root, workers)):
        pass
