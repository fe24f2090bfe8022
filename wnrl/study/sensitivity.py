"""How much an arm needs its settings chosen anew for each task, from the runs they are chosen by.

Both measures are those of Adkins, Bowling & White (2024, arXiv:2412.07165). They are made of the
best of several means, which is above the truth, the more so the fewer the tuning seeds: they serve
to compare arms that have the same grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from wnrl.study.plan import Grid, grouped
from wnrl.study.stats import LEAST, Estimate, Floats
from wnrl.study.summary import Row

KEPT = 0.95
"""Share of the best mean score that fewer settings have to keep."""
RESAMPLES = 2000


@dataclass(frozen=True)
class Sensitivity:
    """One arm on all the tasks of a study; 0 and 1 are the 5th and 95th percentile of a task."""

    name: str
    """Of the arm, in tables and figures."""
    baseline: str
    """Name of the arm that it is compared with."""
    settings: tuple[str, ...]
    """What is chosen."""
    best: float
    """Mean over tasks of the score with the settings that are best there."""
    lost: Estimate
    """Sensitivity: what is lost of it with the settings that are best for all tasks together."""
    difference: Estimate | None
    """That minus the baseline's; None for the baseline."""
    dimensionality: int
    """How many settings have to be chosen anew for each task to keep ``KEPT`` of the best score,
    the others being those that are best for all together."""

    def __str__(self) -> str:
        """Say all of it in one line."""
        minus = "" if self.difference is None else f", minus {self.baseline} {self.difference}"
        chosen = f"{self.dimensionality} of {len(self.settings)} settings"
        return f"{self.name}: {self.lost}{minus}; {chosen} keep {KEPT:.0%} of {self.best:.2f}"


def sensitivities(rows: Sequence[Row]) -> list[Sensitivity]:
    """Return the sensitivity of each arm to the settings that were chosen for all arms and tasks.

    Of grids that differ, the values count that all have in common. Nothing is returned where there
    are none, or for fewer than two tasks or ``LEAST`` tuning seeds. Intervals are percentiles of a
    bootstrap that draws those seeds anew, the same for all arms.
    """
    tuned = [(row, row.choice) for row in rows if row.choice and row.confidence is not None]
    n_tasks = len({row.task for row, _ in tuned})
    arms = grouped((row.name, choice) for row, choice in tuned)
    arms = {name: choices for name, choices in arms.items() if len(choices) == n_tasks > 1}
    every = [choice for choices in arms.values() for choice in choices]
    grid = _common([choice.grid for choice in every]) if every else {}
    if not grid or min(choice.scores.shape[-1] for choice in every) < LEAST:
        return []
    scores = _scaled(np.array([[c.scores_at(grid) for c in choices] for choices in arms.values()]))
    n = scores.shape[-1]
    drawn = np.random.default_rng(0).integers(n, size=(RESAMPLES, n))
    means, again = scores.mean(-1), np.moveaxis(scores[..., drawn].mean(-1), -1, 1)
    lost, lost_again = sensitivity(means, len(grid)), sensitivity(again, len(grid))
    baseline = tuned[0][0].baseline
    first = list(arms).index(baseline) if baseline in arms else None
    results = []
    for k, name in enumerate(arms):
        best = float(_best(means[k], len(grid)).mean())
        own, difference = _estimate(lost[k], lost_again[k]), None
        if first is not None and k != first:
            difference = _estimate(lost[k] - lost[first], lost_again[k] - lost_again[first])
        dims = dimensionality(means[k])
        results.append(Sensitivity(name, baseline, tuple(grid), best, own, difference, dims))
    return results


def sensitivity(scores: Floats, n_settings: int) -> Floats:
    """Return the mean over tasks of their best scores, minus the best mean over tasks.

    Args:
        scores: ``(..., n_tasks, *grid)``, higher is better.
        n_settings: Axes of the grid.
    """
    return _best(scores, n_settings).mean(-1) - _best(scores.mean(-1 - n_settings), n_settings)


def dimensionality(scores: Floats) -> int:
    """Return the smallest number of settings that, chosen for each task, keep ``KEPT`` of the best.

    Args:
        scores: ``(n_tasks, *grid)``, higher is better.
    """
    mean = scores.mean(0)
    shared = np.unravel_index(mean.argmax(), mean.shape)
    enough = KEPT * _best(scores, mean.ndim).mean()
    for count in range(mean.ndim):
        for chosen in combinations(range(mean.ndim), count):
            places = tuple(slice(None) if a in chosen else i for a, i in enumerate(shared))
            if _best(scores[(slice(None), *places)], count).mean() >= enough:
                return count
    return mean.ndim


def _best(scores: Floats, n_settings: int) -> Floats:
    return scores.max(axis=tuple(range(-n_settings, 0)))


def _common(grids: Sequence[Grid]) -> Grid:
    common = {
        name: [value for value in values if all(value in grid.get(name, ()) for grid in grids)]
        for name, values in grids[0].items()
    }
    return {name: values for name, values in common.items() if values}


def _scaled(scores: Floats) -> Floats:
    """Return scores, ``(n_arms, n_tasks, ...)``, with each task's percentiles at 0 and 1."""
    by_task = np.moveaxis(scores, 1, 0)
    low, high = np.percentile(by_task.reshape(len(by_task), -1), (5, 95), axis=1)
    span = np.where(high > low, high - low, 1.0)
    shape = (-1,) + (1,) * (scores.ndim - 2)
    return (scores - low.reshape(shape)) / span.reshape(shape)


def _estimate(value: float, again: Floats) -> Estimate:
    low, high = np.percentile(again, (2.5, 97.5))
    return Estimate(float(value), float(low), float(high))
