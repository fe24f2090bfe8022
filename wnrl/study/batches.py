"""From trials to jobs: which of them are trained as one batch, and which by themselves."""

import itertools
from collections.abc import Sequence

from wnrl.errors import UsageError, check_choice
from wnrl.study.execute import Job, batching
from wnrl.study.plan import Trial

ENGINES = ("auto", "population", "processes")


def jobs(trials: Sequence[Trial], engine: str, workers: int) -> list[Job]:
    """Group trials into jobs, in the order of the first trial of each.

    A group is divided so that every worker has some of it, in jobs of equal size.

    Args:
        trials: What is to be trained.
        engine: ``processes`` trains each trial by itself, ``population`` all of them in batches,
            and ``auto`` in batches what can be, where that was measured to be faster.
        workers: Processes that train at a time.

    Raises:
        UsageError: There is no such engine, or the population cannot train one of the trials.
    """
    if check_choice("engine", engine, ENGINES) == "processes":
        return [(trial,) for trial in trials]
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(trial.batch_key(), []).append(trial)
    planned: list[Job] = []
    for group in groups.values():
        how = batching(group[0])
        if how.refusal and engine == "population":
            raise UsageError(f"engine population: {group[0].title}: {how.refusal}")
        together = not how.refusal and (how.pays or engine == "population")
        planned += _divided(group, how.members, workers) if together else [(t,) for t in group]
    first = {trial: place for place, trial in enumerate(trials)}
    return sorted(planned, key=lambda job: first[job[0]])


def _divided(group: Sequence[Trial], size: int, workers: int) -> list[Job]:
    n_jobs = max(-(-len(group) // size), min(workers, len(group)))
    ends = [round(len(group) * k / n_jobs) for k in range(n_jobs + 1)]
    return [tuple(group[a:b]) for a, b in itertools.pairwise(ends)]
