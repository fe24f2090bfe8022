"""Jobs for the tests of the pool, importable by its worker processes."""

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from wnrl.errors import UsageError
from wnrl.study.plan import RETURN, Task, plan
from wnrl.study.pool import run_jobs


def succeed(job, progress):
    progress(0.5)
    return {"norm": job.norm}


def report_process(job, progress):
    return {"pid": os.getpid()}


def report_blocked_signals(job, progress):
    return {"blocked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])]}


def raise_on_weight(job, progress):
    if job.norm == "weight":
        raise ZeroDivisionError("on purpose")
    return {}


def die_on_weight(job, progress):
    if job.norm == "weight":
        os.kill(os.getpid(), signal.SIGKILL)
    return {}


def refuse(job, progress):
    raise UsageError("seed is wrong")


def note_process_and_sleep(job, progress, *, folder):
    (folder / f"{os.getpid()}.pid").touch()
    time.sleep(120)


if __name__ == "__main__":
    jobs = plan([Task("x", "ppo", "agent", RETURN, ("none", "weight"))], 1)
    folder = Path(sys.argv[1])
    target = partial(note_process_and_sleep, folder=folder)
    for _event in run_jobs(jobs, target, workers=2, log_dir=folder):
        pass
