"""From trials to jobs: which of them are trained as one batch, and which by themselves."""

import itertools
from collections.abc import Sequence

from wnrl.errors import UsageError, check_choice
from wnrl.study.execute import Job, batching
from wnrl.study.plan import Trial

ENGINES = ("auto", "population", "processes")


def jobs(trials: Sequence[Trial], engine: str, workers: int) -> list[Job]:
    """Group trials into jobs, in the order of the first trial of each.

    A group is divided into jobs of equal size, as few as hold it: a small batch gains less. There
    are more where workers would have nothing to do.

    Args:
        trials: What is to be trained.
        engine: ``processes`` trains each trial by itself, ``population`` all of them in batches,
            and ``auto`` in batches what can be, where that was measured to be faster.
        workers: Processes that train at a time.

    Raises:
        UsageError: There is no such engine, or the population cannot train one of the trials.
    """
    if check_choice("engine", engine, ENGINES) == "processes":
        return [Job((trial,)) for trial in trials]
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(trial.batch_key(), []).append(trial)
    batches: list[tuple[list[Trial], int]] = []  # with how many jobs each needs
    planned: list[Job] = []
    for group in groups.values():
        how = batching(group[0])
        if how.refusal and engine == "population":
            raise UsageError(f"engine population: {group[0].title}: {how.refusal}")
        if not how.refusal and (how.pays or engine == "population"):
            batches.append((group, -(-len(group) // how.members)))
        else:
            planned += [Job((trial,)) for trial in group]
    idle = workers - len(planned) - sum(n_jobs for _, n_jobs in batches)
    for group, n_jobs in batches:
        planned += _divided(group, n_jobs + max(0, -(-idle // len(batches))))
    first = {trial: place for place, trial in enumerate(trials)}
    return sorted(planned, key=lambda job: first[job.trials[0]])


def _divided(group: Sequence[Trial], n_jobs: int) -> list[Job]:
    n_jobs = min(n_jobs, len(group))
    ends = [round(len(group) * k / n_jobs) for k in range(n_jobs + 1)]
    return [Job(tuple(group[a:b]), batch=True) for a, b in itertools.pairwise(ends)]
