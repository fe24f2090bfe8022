"""The executor of this machine: worker processes that neither outlive the study nor take it down.

Each worker is a fresh interpreter that takes one job after another, so that torch is imported once
a worker. A job that raises, or takes its worker with it, fails alone. When the study's process
ends, in whatever way, its workers end too: no orphan goes on writing into a run folder that the
next call has taken over.
"""

import multiprocessing as mp
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

from wnrl.runs.session import SIGNALS
from wnrl.study.attempts import News, become_worker, trained
from wnrl.study.execute import Job

SPAWN = mp.get_context("spawn")  # CUDA and torch's threads do not survive a fork
STOP = signal.SIGUSR1  # which a worker is sent; one that does not train yet dies of it
LEFT = 128 + signal.SIGTERM


class Processes:
    """Worker processes, which are the places of this ``wnrl.study.attempts.Pool``.

    Signals do not reach them: the pool asks them to stop, or kills them.

    Args:
        root: The study's folder; what the workers print goes to ``<log>worker<k>.log`` there.
        size: Processes at a time.
        imports: Modules that a worker imports first, such as one that registers norms.
        log: Tells the logs from those of other shards.
    """

    def __init__(self, root: Path, size: int, imports: Sequence[str] = (), log: str = "") -> None:
        logs = [root / f"{log}worker{k}.log" for k in range(size)]
        self.size, self.workers = size, [_Worker(root, imports, path) for path in logs]

    def has_room(self) -> bool:
        """Return True where a worker has nothing to do."""
        return not all(worker.busy for worker in self.workers)

    def start(self, job: Job) -> "_Worker":
        """Give a job to a worker, and return the worker."""
        worker = next(worker for worker in self.workers if not worker.busy)
        worker.start(job)
        return worker

    def news(self) -> Iterator[News]:
        """Return what happened, within a tenth of a second."""
        busy = {worker.conn: worker for worker in self.workers if worker.busy}
        for conn in wait(busy, timeout=0.1):
            worker = busy[conn]  # type: ignore[index]  # wait returns what it got
            yield (worker, *worker.receive())

    def kill(self, place: "_Worker") -> None:
        """End a worker with its job."""
        place.kill()

    def stop(self, may_wait: Callable[[], bool]) -> None:
        """Let workers save what they train; end them when it may wait no more."""
        training = [worker.process for worker in self.workers if worker.busy and worker.process]
        for process in training:
            with suppress(ProcessLookupError):  # it has just died
                os.kill(process.pid or 0, STOP)
        while any(process.is_alive() for process in training) and may_wait():
            time.sleep(0.05)
        for worker in self.workers:
            worker.kill()


class _Worker:
    """The parent's end of one process, which is launched, or replaced if it died, for a job."""

    def __init__(self, root: Path, imports: Sequence[str], log: Path) -> None:
        self._arguments, self._log = (root, imports, log), log
        self.busy = False
        self.process: BaseProcess | None = None

    def start(self, job: Job) -> None:
        if self.process is None:
            self.conn, conn = SPAWN.Pipe()
            self.process = SPAWN.Process(target=_work, args=(conn, *self._arguments))
            resource_tracker.ensure_running()  # its start, with the first child, would unblock them
            # Signals stay blocked in a child, which they reach too where they are sent to a group
            # of processes: its parent decides, and no second one disturbs it while it saves.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            try:
                self.process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            conn.close()
        try:
            self.conn.send(job)
            self.busy = True
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
        self.busy = kind == "progress"
        return kind, value

    def kill(self) -> int:
        """End the process, if there is one, with all that it started, and return its exit code."""
        process, self.process, self.busy = self.process, None, False
        if process is None or process.pid is None:
            return 0
        process.kill()
        with suppress(ProcessLookupError):  # it is no group yet
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
        self.conn.close()
        return process.exitcode or 0


def _work(conn: "Connection[Any, Any]", root: Path, imports: Sequence[str], log: Path) -> None:
    """Take jobs until the parent wants no more; the whole life of a worker process."""
    os.setpgid(0, 0)  # what it starts is killed with it
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    signal.signal(STOP, _stop)
    become_worker(log, imports)
    while True:
        job: Job = conn.recv()
        conn.send(("progress", 0.0))
        conn.send(trained(job, root, lambda done: conn.send(("progress", done))))


def _leave_with_parent() -> None:
    parent = mp.parent_process()
    assert parent is not None
    parent.join()
    os._exit(LEFT)  # at once: a clean exit would wait for the trial


def _stop(number: int, frame: FrameType | None) -> None:
    """Pass the parent's wish to stop on to training; leave where that cannot save anything."""
    handler = signal.getsignal(signal.SIGTERM)
    if not callable(handler):
        os._exit(LEFT)
    handler(signal.SIGTERM, frame)
