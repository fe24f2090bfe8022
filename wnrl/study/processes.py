"""The executor of this machine: worker processes that neither outlive the study nor take it down.

Each worker is a fresh interpreter that takes one job after another, so that torch is imported once
a worker. A job that raises, or takes its worker with it, fails alone. When the study's process
ends, in whatever way, its workers end too: no orphan goes on writing into a run folder that the
next call has taken over.
"""

import _thread
import multiprocessing as mp
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from wnrl.runs.interrupts import SIGNALS
from wnrl.study.attempts import News, become_worker, carry_out, trained
from wnrl.study.execute import Event, Job

SPAWN = mp.get_context("spawn")  # CUDA and torch's threads do not survive a fork


def processes(
    jobs: Sequence[Job],
    root: Path,
    *,
    workers: int,
    imports: Sequence[str] = (),
    time_limit: float | None = None,
    log: str = "",
) -> Generator[Event]:
    """Train jobs in processes on this machine and yield what happens.

    The first Ctrl-C, SIGTERM or SIGHUP asks the workers to stop with a checkpoint; a second one
    kills them.

    Args:
        jobs: In the order in which they start.
        root: The study's folder; what the workers print goes to ``<log>worker<k>.log`` there.
        workers: Processes at a time.
        imports: Modules that a worker imports first, such as one that registers norms.
        time_limit: Seconds that a job may take; then its process is killed.
        log: Tells the logs from those of other shards.

    Yields:
        Events, in the order in which they arrive. Closing the generator, or an exception in the
        loop over it, stops the workers.

    Raises:
        Stopped: A signal came, and the workers have ended.
    """
    logs = [root / f"{log}worker{k}.log" for k in range(workers)]
    yield from carry_out(jobs, _Pool([_Worker(root, imports, path) for path in logs]), time_limit)


class _Pool:
    """Worker processes; a worker is a place of ``wnrl.study.attempts.Pool``."""

    def __init__(self, workers: list["_Worker"]) -> None:
        self.workers = workers

    def has_room(self) -> bool:
        return not all(worker.busy for worker in self.workers)

    def start(self, job: Job) -> "_Worker":
        worker = next(worker for worker in self.workers if not worker.busy)
        worker.start(job)
        return worker

    def news(self) -> Iterator[News]:
        busy = {worker.conn: worker for worker in self.workers if worker.busy}
        for conn in wait(busy, timeout=0.1):
            worker = busy[conn]  # type: ignore[index]  # wait returns what it got
            yield (worker, *worker.receive())

    def kill(self, place: "_Worker") -> None:
        place.kill()

    def stop(self, may_wait: Callable[[], bool]) -> None:
        for worker in self.workers:
            if worker.alive:
                worker.ask_to_stop()
        while any(worker.alive for worker in self.workers) and may_wait():
            time.sleep(0.05)
        for worker in self.workers:
            if worker.alive:
                worker.kill()


class _Worker:
    """The parent's end of one process, which is launched, or replaced if it died, for a job."""

    def __init__(self, root: Path, imports: Sequence[str], log: Path) -> None:
        self._arguments, self._log = (root, imports, log), log
        self.busy = False
        self.process: BaseProcess | None = None

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.is_alive()

    def _launch(self) -> None:
        self.conn, conn = SPAWN.Pipe()
        orders, self.orders = SPAWN.Pipe(duplex=False)
        self.process = SPAWN.Process(target=_work, args=(conn, orders, *self._arguments))
        with _signals_held_back():
            self.process.start()
        conn.close()
        orders.close()

    def start(self, job: Job) -> None:
        if not self.alive:
            self._launch()
        self.busy = True
        try:
            self.conn.send(job)
        except OSError:  # it died while it had nothing to do
            self.kill()
            self.start(job)

    def receive(self) -> tuple[Any, Any]:
        """Return a kind of news and its value."""
        try:
            kind, value = self.conn.recv()
        except (EOFError, OSError):
            code = self.kill()
            how = f"killed by signal {-code}" if code < 0 else f"left with exit code {code}"
            return "crashed", f"its process was {how}; see {self._log}"
        self.busy = kind in ("begun", "progress")
        return kind, value

    def ask_to_stop(self) -> None:
        if self.busy:
            with suppress(OSError):  # it has just died
                self.orders.send("stop")
        else:  # it has nothing to lose
            self.kill()

    def kill(self) -> int:
        """End the process and all that it started, and return its exit code."""
        process, self.process, self.busy = self.process, None, False
        assert process is not None
        assert process.pid is not None
        process.kill()
        with suppress(ProcessLookupError):  # it is no group yet
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
        self.conn.close()
        self.orders.close()
        return process.exitcode or 0


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


def _work(
    conn: "Connection[Any, Any]",
    orders: "Connection[Any, Any]",
    root: Path,
    imports: Sequence[str],
    log: Path,
) -> None:
    """Take trials until the parent wants no more; the whole life of a worker process."""
    os.setpgid(0, 0)  # what it starts is killed with it
    threading.Thread(target=_obey, args=(orders,), daemon=True).start()
    become_worker(log, imports)
    while True:
        job: Job = conn.recv()
        conn.send(("begun", None))
        conn.send(trained(job, root, lambda done: conn.send(("progress", done))))


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
