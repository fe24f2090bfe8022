"""Runs the jobs of a study in worker processes that neither outlive it nor take it down.

Each worker is a fresh interpreter that takes one job after another, so that torch is imported once
a worker. A job that raises, or takes its worker with it, fails alone. When the study's process
ends, in whatever way, its workers end too: no orphan goes on writing into a run folder that the
next call has taken over.
"""

import multiprocessing as mp
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

from wnrl.errors import UsageError
from wnrl.study.plan import Job

SPAWN = mp.get_context("spawn")  # CUDA and torch's threads do not survive a fork
Progress = Callable[[float], None]
Target = Callable[[Job, Progress], dict[str, Any]]


@dataclass(frozen=True)
class Event:
    """What a worker says of a job."""

    kind: Literal["started", "progress", "ended", "crashed", "refused"]
    """``ended`` has a result, of a run that finished or failed; ``crashed`` and ``refused`` have
    a reason: the worker raised or died, or the job's settings were wrong."""
    job: Job
    fraction: float = 0.0
    result: dict[str, Any] | None = None
    reason: str = ""


def run_jobs(
    jobs: Iterable[Job], target: Target, *, workers: int, log_dir: Path
) -> Generator[Event]:
    """Runs ``target(job, progress)`` for every job and yields what happens.

    Args:
        jobs: in the order in which they start.
        target: a function that a fresh interpreter can import; it writes the run's folder and
            returns its result.
        workers: processes at a time.
        log_dir: what the workers print goes to ``worker<k>.log`` there.

    Yields:
        Events, in the order in which they arrive. Closing the generator, or an exception in the
        loop over it, stops the workers.
    """
    waiting = list(jobs)
    pool = [_Worker(k, target, log_dir) for k in range(min(workers, len(waiting)))]
    try:
        while True:
            for worker in pool:
                if worker.job is None and waiting:
                    yield worker.start(waiting.pop(0))
            busy = {worker.conn: worker for worker in pool if worker.job is not None}
            if not busy:
                return
            for conn in wait(busy, timeout=1.0):
                yield busy[conn].receive()  # type: ignore[index]  # wait returns what it got
    finally:
        _stop(pool)


class _Worker:
    """The parent's end of one process; a process that died is replaced at the next job."""

    def __init__(self, index: int, target: Target, log_dir: Path) -> None:
        self._target = target
        self._log = log_dir / f"worker{index}.log"
        self.job: Job | None = None
        self._launch()

    def _launch(self) -> None:
        self.conn, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=_work, args=(theirs, self._target, self._log))
        with _interrupts_held_back():
            self.process.start()
        theirs.close()

    def start(self, job: Job) -> Event:
        if not self.process.is_alive():
            self._launch()
        self.job = job
        self.conn.send(job)
        return Event("started", job)

    def receive(self) -> Event:
        assert self.job is not None
        job = self.job
        try:
            kind, value = self.conn.recv()
        except (EOFError, OSError):
            self.process.join()
            self.job = None
            code = self.process.exitcode or 0
            how = f"killed by signal {-code}" if code < 0 else f"left with exit code {code}"
            return Event("crashed", job, reason=f"its process was {how}; see {self._log}")
        if kind == "progress":
            return Event("progress", job, fraction=value)
        self.job = None
        if kind == "ended":
            return Event("ended", job, fraction=1.0, result=value)
        return Event(kind, job, reason=value)


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Lets a child start with SIGINT blocked: Ctrl-C reaches the parent, which stops the child."""
    resource_tracker.ensure_running()  # its start, with the first child, would let SIGINT through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _stop(pool: list[_Worker], grace: float = 3.0) -> None:
    for worker in pool:
        worker.process.terminate()
    deadline = time.monotonic() + grace
    for worker in pool:
        worker.process.join(max(0.0, deadline - time.monotonic()))
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.conn.close()


def _work(conn: "Connection[Any, Any]", target: Target, log: Path) -> None:
    """The worker's process: takes jobs until it is stopped."""
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    _redirect_output(log)
    _use_one_thread()
    while True:
        job: Job = conn.recv()
        print(f"\n# {job.title}", flush=True)
        try:
            conn.send(("ended", target(job, _throttled(conn))))
        except UsageError as error:
            conn.send(("refused", str(error)))
        except Exception as error:
            traceback.print_exc()
            first_line = (str(error).splitlines() or [""])[0]
            conn.send(("crashed", f"{type(error).__name__}: {first_line}"))


def _leave_with_parent() -> None:
    parent = mp.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)  # at once: a clean exit would wait for the job


def _redirect_output(log: Path) -> None:
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(out, sys.stdout.fileno())
    os.dup2(out, sys.stderr.fileno())


def _use_one_thread() -> None:
    """One thread a process: small nets are faster so, and the processes share the cores."""
    import torch

    torch.set_num_threads(1)


def _throttled(conn: "Connection[Any, Any]", interval: float = 0.2) -> Progress:
    last = 0.0

    def progress(fraction: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= interval:
            last = now
            conn.send(("progress", fraction))

    return progress
