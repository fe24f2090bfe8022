"""An arm over several tasks: scores on one scale, 0 at a task's floor and 1 where it is solved."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wnrl.study.outcomes import Scale
from wnrl.study.plan import Task, grouped
from wnrl.study.stats import Estimate, Floats, Sample
from wnrl.study.summary import Row


@dataclass(frozen=True)
class Overall:
    """One arm on the tasks that it and the baseline have, and whose scale is known."""

    name: str
    """Name in tables and figures."""
    baseline: str
    """Name of the arm that it is compared with."""
    scores: Floats
    """``(n_tasks, n_seeds)``, 0 at the floor of each task and 1 where it is solved."""
    score: Estimate
    """Their mean."""
    difference: Estimate | None
    """That minus the baseline's, on the same tasks and seeds; None for the baseline."""

    def profile(self, thresholds: Floats) -> Floats:
        """Return the share of runs that score above each threshold, with equal weight for tasks.

        It is the performance profile of Agarwal et al. (2021, arXiv:2108.13264).
        """
        return np.mean(self.scores[..., None] > thresholds, axis=(0, 1), dtype=np.float64)

    def __str__(self) -> str:
        """Say score and difference in one line."""
        rest = "" if self.difference is None else f", minus {self.baseline} {self.difference}"
        return f"{self.name} over {len(self.scores)} tasks: {self.score}{rest}"


def overall(rows: Sequence[Row]) -> list[Overall]:
    """Return how each arm did over two tasks or more, each of which has the same weight.

    A seed's scores are averaged over the tasks first: a seed is one number, and the interval is
    that of a mean, as in the table of a task.
    """
    known = [row for row in rows if row.confidence is not None and _span(row.task)]
    scaled = {(row.task, row.arm.name, row.point): _scaled(row, known) for row in known}
    ends = [0.0, 1.0, *(value for by_seed in scaled.values() for value in by_seed.values())]
    low, high = min(ends), max(ends)
    compared = [row for row in known if (row.task, row.baseline, row.point) in scaled]
    arms = grouped((row.name, row) for row in compared)
    results = []
    for name, own in arms.items():
        ours = [scaled[row.task, row.arm.name, row.point] for row in own]
        theirs = [scaled[row.task, row.baseline, row.point] for row in own]
        scores, difference = _at_shared_seeds(ours), None
        if len(own) < 2 or not scores.size:
            continue
        noise = _noise([(row.task, row.sample) for row in own])
        ends = np.mean([_limits(row, known) for row in own], 0)
        score = Sample(scores.mean(0), (low, high), limits=tuple(ends), choice_sd=noise).mean()
        pairs = zip(ours, theirs, strict=True)
        gains = _at_shared_seeds([{k: a[k] - b[k] for k in a.keys() & b} for a, b in pairs])
        if own[0].arm.name != own[0].baseline and gains.size:
            noise = _noise([(row.task, row.differences) for row in own])
            reach, apart = (low - high, high - low), (ends[0] - ends[1], ends[1] - ends[0])
            difference = Sample(gains.mean(0), reach, limits=apart, choice_sd=noise).mean()
        results.append(Overall(name, own[0].baseline, scores, score, difference))
    return results


def _span(task: Task) -> float:
    """Return how far it is from floor to solved, in the metric's direction; 0 if not known."""
    return 0.0 if task.floor is None or task.solved is None else task.solved - task.floor


def _scale(task: Task, rows: Sequence[Row]) -> Scale:
    return Scale.of(task, [row.runs for row in rows if row.task == task])


def _scaled(row: Row, rows: Sequence[Row]) -> dict[int, float]:
    floor, span = row.task.floor or 0.0, _span(row.task)
    counted = _scale(row.task, rows).counted(row.runs)
    return {seed: (score - floor) / span for seed, score in counted.items()}


def _limits(row: Row, rows: Sequence[Row]) -> list[float]:
    """Return the lowest and the highest mean that there can be, as ``_scaled`` has scores."""
    floor, limits = row.task.floor or 0.0, _scale(row.task, rows).limits()
    return sorted((limit - floor) / _span(row.task) for limit in limits)


def _at_shared_seeds(by_task: Sequence[dict[int, float]]) -> Floats:
    seeds = sorted(set.intersection(*map(set, by_task))) if by_task else []
    return np.array([[scores[seed] for seed in seeds] for scores in by_task])


def _noise(samples: Sequence[tuple[Task, Sample | None]]) -> float:
    """Return the standard deviation of a mean over tasks because settings were chosen on each."""
    each = [sample.choice_sd / _span(task) for task, sample in samples if sample]
    return math.hypot(*each) / len(samples)
