"""What trains the runs of a study on an executor, followed on the terminal."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from scripts._progress import show_progress
from wnrl.runs import is_finished
from wnrl.study.batches import jobs
from wnrl.study.cluster import ray_cluster
from wnrl.study.execute import Event, Job, noted
from wnrl.study.folder import add_duration
from wnrl.study.plan import Trial
from wnrl.study.processes import processes
from wnrl.study.shards import Shard

Execute = Callable[[Sequence[Job]], Generator[Event]]
"""Trains jobs, and yields what happens."""


@contextmanager
def executor(
    kind: str,
    address: str | None,
    root: Path,
    workers: int,
    time_limit: float | None,
    imports: Sequence[str],
    shard: Shard,
) -> Iterator[tuple[int, Execute]]:
    """Give how many jobs are trained at a time, and what trains them.

    Args:
        kind: ray or processes.
        address: Of the head of a Ray cluster to join.
        root: The study's folder.
        workers: Processes of this machine.
        time_limit: Seconds that a job may take.
        imports: Modules that a worker imports first.
        shard: Tells logs from those of others.
    """
    log = f"{shard.name}-" if shard.count > 1 else ""
    if kind == "ray":
        with ray_cluster(root, cpus=workers, address=address, imports=imports, log=log) as cluster:
            yield cluster.cpus, partial(cluster.train, time_limit=time_limit)
    else:
        more: Any = {"imports": imports, "time_limit": time_limit, "log": log}
        yield workers, partial(processes, root=root, workers=workers, **more)


@dataclass
class Training:
    """Trains those runs of a shard that are not finished, and counts those that left no result."""

    root: Path
    """The study's folder."""
    shard: Shard
    engine: str
    """As ``jobs`` has it."""
    workers: int
    """How many jobs are trained at a time."""
    execute: Execute
    n_crashed: int = 0

    def __call__(self, trials: Sequence[Trial]) -> None:
        """Train, and add the time that it took to the study's."""
        trials = self.shard.of(trials)
        waiting = [trial for trial in trials if not is_finished(self.root / trial.folder)]
        if not waiting:
            return
        began, done = time.monotonic(), len(trials) - len(waiting)
        try:
            with closing(self.execute(jobs(waiting, self.engine, self.workers))) as events:
                self.n_crashed += show_progress(noted(events, self.root), len(trials), done)
        finally:
            add_duration(self.root, time.monotonic() - began)
