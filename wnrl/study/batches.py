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
    sizes: dict[str, int] = {}
    for trial in trials:
        how = batching(trial)
        if how.refusal and engine == "population":
            raise UsageError(f"engine population: {trial.title}: {how.refusal}")
        together = not how.refusal and (how.pays or engine == "population")
        key = trial.batch_key() if together else str(trial.folder)
        groups.setdefault(key, []).append(trial)
        sizes[key] = how.members if together else 1
    first = {trial: place for place, trial in enumerate(trials)}
    divided = [job for key, group in groups.items() for job in _divided(group, sizes[key], workers)]
    return sorted(divided, key=lambda job: first[job[0]])


def _divided(group: Sequence[Trial], size: int, workers: int) -> list[Job]:
    n_jobs = max(-(-len(group) // size), min(workers, len(group)))
    ends = [round(len(group) * k / n_jobs) for k in range(n_jobs + 1)]
    return [tuple(group[a:b]) for a, b in itertools.pairwise(ends)]
