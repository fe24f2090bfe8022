"""What every executor does with jobs: start them, follow them, and try again what was lost."""

import importlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Protocol

import torch

from wnrl.errors import InUseError, UsageError, printable
from wnrl.runs import RESULT, is_finished
from wnrl.runs.interrupts import SIGNALS, Stopped
from wnrl.study.execute import Event, Job, Progress, runner, train_batch
from wnrl.study.plan import Trial

GRACE = 25.0  # seconds in which a worker that is asked to stop may write its checkpoint
ATTEMPTS = 4
PAUSE, LONGER = 10.0, 4  # seconds before what was lost is tried again, and by what they grow
# A file system lets go of the locks of a machine that is gone in a minute or two.
News = tuple[Any, Literal["begun", "progress", "ended", "crashed", "lost"], Any]
"""A place of a pool, what happened there, and the share done, the results or the reason."""


class Pool(Protocol):
    """Where jobs are trained, each at a place of its own."""

    def has_room(self) -> bool:
        """Return True where a job could be started."""

    def start(self, job: Job) -> Any:
        """Start a job, and return its place."""

    def news(self) -> Iterable[News]:
        """Return what happened; wait for it, but not for long."""

    def kill(self, place: Any) -> None:
        """End the job at a place at once, whatever it does; no news come from it any more."""

    def stop(self, may_wait: Callable[[], bool]) -> None:
        """Let all jobs that run write a checkpoint; end what is left when it may wait no more."""


@dataclass(frozen=True)
class Attempt:
    """One of the attempts at a job."""

    job: Job
    number: int = 1
    due: float = 0.0
    """When it may start, by ``time.monotonic``."""
    begun: float | None = None
    """When it began to train."""

    def events(self, kind: Any, **values: Any) -> list[Event]:
        """Return news of each of its trials."""
        return [Event(kind, trial, **values) for trial in self.job.trials]

    def again(self) -> "Attempt":
        """Return the next attempt at the job, after a pause."""
        pause = PAUSE * LONGER ** (self.number - 1)
        return Attempt(self.job, self.number + 1, time.monotonic() + pause)


def carry_out(jobs: Sequence[Job], pool: Pool, time_limit: float | None = None) -> Generator[Event]:
    """Train jobs in a pool and yield what happens; closing the generator stops the work.

    A job that was lost, by no fault of its own, is tried again. Of a batch that crashed each member
    is tried by itself: what is wrong with one costs no other.

    Args:
        jobs: In the order in which they start.
        pool: Where they are trained; it is stopped at the end.
        time_limit: Seconds that a job may take.

    Raises:
        Stopped: A signal came, and the pool has stopped.
    """
    waiting = [Attempt(job) for job in jobs]
    running: dict[Any, Attempt] = {}
    with _noted_signals() as signals:
        try:
            while (waiting or running) and not signals:
                now = time.monotonic()
                while pool.has_room() and (due := [a for a in waiting if a.due <= now]):
                    waiting.remove(due[0])
                    running[pool.start(due[0].job)] = due[0]
                for place, kind, value in pool.news():
                    attempt = running[place]
                    if kind == "begun":
                        running[place] = replace(attempt, begun=time.monotonic())
                        yield from attempt.events("started")
                    elif kind == "progress":
                        yield from attempt.events("progress", fraction=value)
                    else:
                        del running[place]
                        events, again = _ended(attempt, kind, value)
                        waiting += again
                        yield from events
                for place in [p for p, a in running.items() if _overdue(a, time_limit)]:
                    pool.kill(place)
                    reason = f"time limit: it took more than {time_limit:g} s"
                    events, again = _ended(running.pop(place), "crashed", reason)
                    waiting += again
                    yield from events
        finally:
            pool.stop(_patience(signals))
    if signals:
        raise Stopped(signals[0], "stopped; the same command goes on from here")


def _overdue(attempt: Attempt, time_limit: float | None) -> bool:
    if attempt.begun is None or time_limit is None:
        return False
    return time.monotonic() - attempt.begun > time_limit


def _ended(attempt: Attempt, kind: str, value: Any) -> tuple[list[Event], list[Attempt]]:
    """Return the last news of an attempt, and the attempts that come of it."""
    job = attempt.job
    if kind == "ended":
        return [_end_of(*pair) for pair in zip(job.trials, value, strict=True)], []
    if kind == "crashed" and len(job.trials) > 1:
        alone = [Attempt(replace(job, trials=(trial,))) for trial in job.trials]
        return attempt.events("lost", reason=value), alone
    if kind == "lost" and attempt.number < ATTEMPTS:
        return attempt.events("lost", reason=value), [attempt.again()]
    return attempt.events("crashed", reason=value), []


def _end_of(trial: Trial, result: Any) -> Event:
    if result is None:
        return Event("crashed", trial, reason=f"{trial.runner} returned and left no {RESULT}")
    return Event("ended", trial, fraction=1.0, result=result)


def trained(job: Job, root: Path, progress: Progress) -> tuple[str, Any]:
    """Train a job where this is called, and return the kind of news and its value.

    None stands for the result of a trial that left none.
    """
    print("", *(f"# {trial.title}" for trial in job.trials), sep="\n", flush=True)
    folders = [root / trial.folder for trial in job.trials]
    try:
        if job.batch:
            results = train_batch(job.trials, folders, progress)
        else:
            results = [runner(job.trials[0].runner)[0](job.trials[0], folders[0], progress)]
    except InUseError as error:  # by what is about to end
        return "lost", printable(error)
    except UsageError as error:
        return "crashed", printable(error)
    except Exception as error:
        traceback.print_exc()
        return "crashed", printable(f"{type(error).__name__}: {error}")
    left = [is_finished(folder) for folder in folders]
    return "ended", [r if there else None for r, there in zip(results, left, strict=True)]


def become_worker(log: Path, imports: Sequence[str]) -> None:
    """Let this process print to the end of a file, use one core, and import modules."""
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(out, sys.stdout.fileno())
    os.dup2(out, sys.stderr.fileno())
    torch.set_num_threads(1)  # small nets are faster so, and the workers share the cores
    for module in imports:
        importlib.import_module(module)


def _patience(signals: Sequence[int]) -> Callable[[], bool]:
    """Return what is True until ``GRACE`` is over, or a signal comes after the first one."""
    deadline, n_signals = time.monotonic() + GRACE, len(signals[:1])
    return lambda: len(signals) <= n_signals and time.monotonic() < deadline


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
