"""The executor of this machine: worker processes that neither outlive the study nor take it down.

Each worker is a fresh interpreter that takes one job after another, a trial or several that are
trained as one batch, so that torch is imported once a worker. A job that raises, or takes its
worker with it, fails alone. When the study's
process ends, in whatever way, its workers end too: no orphan goes on writing into a run folder
that the next call has taken over.
"""

import _thread
import importlib
import multiprocessing as mp
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from wnrl.errors import UsageError, printable
from wnrl.runs import RESULT, is_finished
from wnrl.runs.interrupts import SIGNALS, Stopped
from wnrl.study.execute import Event, Job, Progress, runner, train_batch
from wnrl.study.plan import Trial

SPAWN = mp.get_context("spawn")  # CUDA and torch's threads do not survive a fork
GRACE = 25.0  # seconds in which a worker that is asked to stop may write its checkpoint


def processes(
    jobs: Sequence[Job], root: Path, *, workers: int, imports: Sequence[str] = (), log: str = ""
) -> Generator[Event]:
    """Train jobs in processes on this machine and yield what happens.

    The first Ctrl-C, SIGTERM or SIGHUP asks the workers to stop with a checkpoint; a second one
    kills them.

    Args:
        jobs: In the order in which they start.
        root: The study's folder; what the workers print goes to ``<log>worker<k>.log`` there.
        workers: Processes at a time.
        imports: Modules that a worker imports first, such as one that registers norms.
        log: Tells the logs from those of other shards.

    Yields:
        Events, in the order in which they arrive. Closing the generator, or an exception in the
        loop over it, stops the workers.

    Raises:
        Stopped: A signal came, and the workers have ended.
    """
    waiting = list(jobs)
    with _noted_signals() as signals:
        pool = [
            _Worker(root, imports, root / f"{log}worker{k}.log")
            for k in range(min(workers, len(waiting)))
        ]
        try:
            while not signals:
                for worker in pool:
                    if not worker.job and waiting:
                        yield from worker.start(waiting.pop(0))
                busy = {worker.conn: worker for worker in pool if worker.job}
                if not busy:
                    break
                for conn in wait(busy, timeout=0.1):
                    yield from busy[conn].receive()  # type: ignore[index]  # wait returns what it got
        finally:
            _stop(pool, signals)
    if signals:
        raise Stopped(signals[0], "stopped; the same command goes on from here")


class _Worker:
    """The parent's end of one process; a process that died is replaced at the next job."""

    def __init__(self, root: Path, imports: Sequence[str], log: Path) -> None:
        self._arguments, self._log = (root, imports, log), log
        self.job: Job = ()
        self._launch()

    def _launch(self) -> None:
        self.conn, conn = SPAWN.Pipe()
        orders, self.orders = SPAWN.Pipe(duplex=False)
        self.process = SPAWN.Process(target=_work, args=(conn, orders, *self._arguments))
        with _signals_held_back():
            self.process.start()
        conn.close()
        orders.close()

    def start(self, job: Job) -> list[Event]:
        if not self.process.is_alive():
            self._launch()
        self.job = job
        self.conn.send(job)
        return [Event("started", trial) for trial in job]

    def receive(self) -> list[Event]:
        job = self.job
        try:
            kind, value = self.conn.recv()
        except (EOFError, OSError):
            self.process.join()
            self.job = ()
            code = self.process.exitcode or 0
            how = f"killed by signal {-code}" if code < 0 else f"left with exit code {code}"
            reason = f"its process was {how}; see {self._log}"
            return [Event("crashed", trial, reason=reason) for trial in job]
        if kind == "progress":
            return [Event("progress", trial, fraction=value) for trial in job]
        self.job = ()
        if kind == "ended":
            return [_end_of(*pair) for pair in zip(job, value, strict=True)]
        return [Event(kind, trial, reason=value) for trial in job]

    def ask_to_stop(self) -> None:
        if not self.job:  # it has nothing to lose
            self.process.kill()
        elif self.process.is_alive():
            self.orders.send("stop")


@contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """Give the numbers of the signals that came since, where signals are not ignored.

    Outside the main thread, which alone receives signals, nothing is changed.
    """
    signals: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        signals.append(number)
        if len(signals) == 1:  # print could be in the middle of another print
            os.write(2, b"stopping after this update; once more stops at once\n")

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, note)
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Let a child start, and stay, with signals blocked.

    They reach it too where they are sent to a group of processes; its parent decides, and no
    second signal disturbs it while it writes its checkpoint.
    """
    resource_tracker.ensure_running()  # its start, with the first child, would let them through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _stop(pool: list[_Worker], signals: list[int]) -> None:
    """Ask the workers to stop; kill those that have not at the next signal, or after ``GRACE``."""
    for worker in pool:
        worker.ask_to_stop()
    n_signals, deadline = len(signals[:1]), time.monotonic() + GRACE
    while any(worker.process.is_alive() for worker in pool):
        if len(signals) > n_signals or time.monotonic() > deadline:
            for worker in pool:
                worker.process.kill()
        wait([worker.process.sentinel for worker in pool if worker.process.is_alive()], 0.05)
    for worker in pool:
        worker.process.join()
        worker.conn.close()
        worker.orders.close()


def _work(
    conn: "Connection[Any, Any]",
    orders: "Connection[Any, Any]",
    root: Path,
    imports: Sequence[str],
    log: Path,
) -> None:
    """Take trials until the parent wants no more; the whole life of a worker process."""
    threading.Thread(target=_obey, args=(orders,), daemon=True).start()
    _redirect_output(log)
    torch.set_num_threads(1)  # small nets are faster so, and the processes share the cores
    for module in imports:
        importlib.import_module(module)
    while True:
        job: Job = conn.recv()
        print("", *(f"# {trial.title}" for trial in job), sep="\n", flush=True)
        conn.send(_trained(job, root, lambda done: conn.send(("progress", done))))


def _trained(job: Job, root: Path, progress: Progress) -> tuple[str, Any]:
    """Return the kind of event that the job ended with, and its results or the reason.

    None stands for the result of a trial that left none.
    """
    folders = [root / trial.folder for trial in job]
    try:
        if len(job) > 1:
            results = train_batch(job, folders, progress)
        else:
            results = [runner(job[0].runner)[0](job[0], folders[0], progress)]
    except UsageError as error:
        return "refused", printable(error)
    except Exception as error:
        traceback.print_exc()
        return "crashed", printable(f"{type(error).__name__}: {error}")
    left = [is_finished(folder) for folder in folders]
    return "ended", [r if there else None for r, there in zip(results, left, strict=True)]


def _end_of(trial: Trial, result: Any) -> Event:
    if result is None:
        return Event("crashed", trial, reason=f"{trial.runner} returned and left no {RESULT}")
    return Event("ended", trial, fraction=1.0, result=result)


def _obey(orders: "Connection[Any, Any]") -> None:
    """Pass the parent's wish to stop on to training; leave with the parent, and where none is."""
    try:
        orders.recv()
        if callable(signal.getsignal(signal.SIGTERM)):  # training can write its checkpoint
            _thread.interrupt_main(signal.SIGTERM)
            orders.recv()
    except (EOFError, OSError):
        pass  # the parent is gone
    os._exit(128 + signal.SIGTERM)  # at once: a clean exit would wait for the trial


def _redirect_output(log: Path) -> None:
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(out, sys.stdout.fileno())
    os.dup2(out, sys.stderr.fileno())
