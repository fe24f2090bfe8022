"""What every executor does with jobs: start them, follow them, and try again what was lost."""

import importlib
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from wnrl.errors import InUseError, UsageError, printable
from wnrl.runs import RESULT, Interrupts, Stopped, is_finished
from wnrl.study.execute import Event, Job, Progress, batches_of, runner

GRACE = 25.0  # seconds in which a worker that is asked to stop may write its checkpoint
ATTEMPTS = 4
PAUSE, LONGER = 10.0, 4  # seconds before what was lost is tried again, and by what they grow
# A file system lets go of the locks of a machine that is gone in a minute or two.
News = tuple[Any, Literal["progress", "ended", "crashed", "lost"], Any]
"""A place of a pool, what happened there, and the share done or the reason.

The first share says that training has begun. A job has ended when each of its trials left a result.
"""


class Pool(Protocol):
    """Where jobs are trained, each at a place of its own."""

    @property
    def size(self) -> int:
        """How many are trained at a time."""

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


@dataclass
class Attempt:
    """One of the attempts at a job; times are those of ``time.monotonic``."""

    job: Job
    number: int = 1
    due: float = 0.0
    """When it may start."""
    begun: float = math.inf
    """When it began to train."""

    def events(self, kind: Any, **values: Any) -> list[Event]:
        """Return news of each of its trials."""
        return [Event(kind, trial, **values) for trial in self.job.trials]

    def again(self, kind: str) -> list["Attempt"]:
        """Return the attempts that come of one that was lost or crashed."""
        trials = self.job.trials
        if kind == "crashed" and len(trials) > 1:
            return [Attempt(replace(self.job, trials=(trial,))) for trial in trials]
        if kind == "lost" and self.number < ATTEMPTS:
            pause = PAUSE * LONGER ** (self.number - 1)
            return [Attempt(self.job, self.number + 1, time.monotonic() + pause)]
        return []


def carry_out(jobs: Sequence[Job], pool: Pool, time_limit: float | None = None) -> Generator[Event]:
    """Train jobs in a pool and yield what happens; closing the generator stops the work.

    A job that was lost, by no fault of its own, is tried again. Of a batch that crashed each member
    is tried by itself: what is wrong with one costs no other. A signal stops the work, a second one
    at once.

    Args:
        jobs: In the order in which they start.
        pool: Where they are trained; it is stopped at the end.
        time_limit: Seconds that a job may take.

    Raises:
        Stopped: A signal came, and the pool has stopped.
    """
    waiting = [Attempt(job) for job in jobs]
    running: dict[Any, Attempt] = {}
    with Interrupts("stopping at once") as second, Interrupts() as first:
        try:
            while (waiting or running) and first.received is None:
                now = time.monotonic()
                while pool.has_room() and (due := [a for a in waiting if a.due <= now]):
                    waiting.remove(due[0])
                    running[pool.start(due[0].job)] = due[0]
                for place, kind, value in _news(pool, running, time_limit):
                    attempt = running[place] if kind == "progress" else running.pop(place)
                    if kind == "ended":
                        yield from attempt.events("ended")
                    elif kind != "progress":
                        again = attempt.again(kind)
                        waiting += again
                        yield from attempt.events("lost" if again else "crashed", reason=value)
                    elif attempt.begun < math.inf:
                        yield from attempt.events("progress", fraction=value)
                    else:
                        attempt.begun = time.monotonic()
                        yield from attempt.events("started")
        finally:
            deadline = time.monotonic() + GRACE
            pool.stop(lambda: second.received is None and time.monotonic() < deadline)
    if first.received is not None:
        raise Stopped(first.received, "stopped; the same command goes on from here")


def _news(pool: Pool, running: Mapping[Any, Attempt], time_limit: float | None) -> Iterator[News]:
    """Yield news of a pool, and kill what takes too long."""
    yield from pool.news()
    if time_limit is not None:
        now = time.monotonic()
        for place in [place for place, a in running.items() if now - a.begun > time_limit]:
            pool.kill(place)
            yield place, "crashed", f"time limit: it took more than {time_limit:g} s"


def trained(job: Job, root: Path, progress: Progress) -> tuple[str, str]:
    """Train a job where this is called, and return the kind of news and its reason."""
    print("", *(f"# {trial.title}" for trial in job.trials), sep="\n", flush=True)
    folders = [root / trial.folder for trial in job.trials]
    first = job.trials[0]
    try:
        if job.batch:
            batches_of(first).train_batch(job.trials, folders, progress)
        else:
            train, _ = runner(first.task.runner)
            train(first, folders[0], progress)
    except InUseError as error:  # by what is about to end
        return "lost", printable(error)
    except UsageError as error:
        return "crashed", printable(error)
    except Exception as error:
        traceback.print_exc()
        return "crashed", printable(f"{type(error).__name__}: {error}")
    if not all(map(is_finished, folders)):
        return "crashed", f"{first.task.runner} returned and left no {RESULT}"
    return "ended", ""


def become_worker(log: Path, imports: Sequence[str]) -> None:
    """Let this process print to the end of a file, use one core, and import modules."""
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(out, sys.stdout.fileno())
    os.dup2(out, sys.stderr.fileno())
    torch.set_num_threads(1)  # small nets are faster so, and the workers share the cores
    for module in imports:
        importlib.import_module(module)
