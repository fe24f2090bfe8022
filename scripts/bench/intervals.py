"""How often the intervals of a study hold the truth, and how often its verdicts are false.

    python scripts/bench/intervals.py

Simulates studies of returns whose distribution is known. The first table has the per cent of
intervals, of 95 % each, that hold the true mean difference of two arms, for several numbers of
pairs; the second the per cent of studies of equal arms in which one is called better or worse; the
third the first for arms whose rate was chosen, and in brackets without the noise of choosing.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts import _cli
from wnrl.limits import Limited, TwoOrMore, Whole, some


@dataclass(frozen=True)
class Args(Limited):
    """Prints the coverage of intervals, and the false verdicts of null studies."""

    pairs: Annotated[tuple[TwoOrMore, ...], some] = (8, 10, 12, 20, 24)
    """Pairs of runs a study; of fewer than 8 there is no interval in a study."""
    studies: Whole = 10_000
    """Simulated studies a cell."""
    null_studies: Whole = 1000
    """Simulated studies of equal arms a cell."""
    arms: TwoOrMore = 5
    """Arms of those, with the baseline."""


if __name__ == "__main__":
    _cli.begin(Args, __doc__)  # before torch is imported

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from scripts.bench._rounds import table
from wnrl.study import RETURN, Task
from wnrl.study.stats import Sample, choice_sd, holm, mean_interval
from wnrl.study.verdicts import judge

Floats = NDArray[np.float64]
Quantiles = Callable[..., Floats]
"""From uniform numbers to returns."""


normal: Quantiles = stats.norm.ppf
skewed = partial(stats.lognorm.ppf, s=1)
"""Lognormal: exp of a standard normal number."""


def solved(p: float) -> Quantiles:
    """Return 500 with probability p, else 0."""
    return lambda u: np.where(u < p, 500.0, 0.0)


def ceiling(p: float) -> Quantiles:
    """Return 500 with probability p, else uniform below it."""
    return lambda u: np.where(u < p, 500.0, 500 * (u - p) / (1 - p))


CELLS: Mapping[str, tuple[Quantiles, Quantiles]] = {
    "normal, equal": (normal, normal),
    "normal, three times the spread": (partial(normal, loc=1, scale=3), normal),
    "lognormal, equal": (skewed, skewed),
    "lognormal, shifted": (partial(skewed, loc=1), skewed),
    "0 or 500, .7 and .7": (solved(0.7), solved(0.7)),
    "0 or 500, .5 and .5": (solved(0.5), solved(0.5)),
    "0 or 500, .9 and .7": (solved(0.9), solved(0.7)),
    "0 or 500, .7 and .3": (solved(0.7), solved(0.3)),
    "60 % at 500, rest uniform, equal": (ceiling(0.6), ceiling(0.6)),
    "90 and 60 % at 500, rest uniform": (ceiling(0.9), ceiling(0.6)),
    "0 or 500, .9 and .9": (solved(0.9), solved(0.9)),
    "0 or 500, 1 and .7": (solved(1.0), solved(0.7)),
    "0 or 500, 1 and .9": (solved(1.0), solved(0.9)),
    "lognormal, twice the spread": (partial(skewed, scale=2), skewed),
    "lognormal, five times the spread": (partial(skewed, scale=5), skewed),
}


def coverage(cell: str, n: int, studies: int, seed: int = 0) -> float:
    """Return the share of intervals that hold the true mean difference.

    Args:
        cell: A key of ``CELLS``.
        n: Pairs of runs a study.
        studies: Simulated studies.
        seed: Of the drawing.
    """
    arm, other = CELLS[cell]
    even = (np.arange(100_000) + 0.5) / 100_000
    truth = float((arm(even) - other(even)).mean())
    u = np.random.default_rng(seed).random((2, studies, n))
    values = arm(u[0]) - other(u[1])
    bounds = (-500.0, 500.0) if "500" in cell else (-np.inf, np.inf)
    low, high = mean_interval(values, bounds=bounds)
    slack = 1e-9 * (1 + abs(truth))
    return float(np.mean((low <= truth + slack) & (truth - slack <= high)))


NULL: Mapping[str, Quantiles] = {
    "normal": normal,
    "lognormal": skewed,
    "0 or 500, .7": solved(0.7),
    "60 % at 500, rest uniform": ceiling(0.6),
}


def false_verdicts(kind: str, arms: int, n: int, studies: int, seed: int = 0) -> float:
    """Return the share of studies of equal arms in which one is called better or worse.

    Args:
        kind: A key of ``NULL``.
        arms: Arms, one of them the baseline.
        n: Runs of each.
        studies: Simulated studies.
        seed: Of the drawing.
    """
    task = Task("null", "none", "none:none", RETURN)
    returns = NULL[kind](np.random.default_rng(seed).random((studies, arms, n)))
    reach = float(np.ptp(returns))
    false = 0
    for study in returns:
        samples = [Sample(arm - study[0], (-reach, reach)) for arm in study[1:]]
        verdicts = [judge(task, "none", *pair) for pair in zip(samples, holm(samples), strict=True)]
        false += any(verdict.word in ("better", "worse") for verdict in verdicts)
    return false / studies


DROPS = (0.0, 0.2, 0.5, 1.0)
"""How much each step away from the best rate costs, in standard deviations of a run."""


def coverage_of_tuned(
    drop: float, n: int, tuning: int, studies: int, seed: int = 0
) -> tuple[float, float]:
    """Return the share of intervals that hold what two tuned arms differ by on average.

    Each arm is chosen from five rates; one is best at the middle rate, the other at its neighbour.
    What holds is the mean difference over all choices that other tuning seeds would have made.

    Args:
        drop: One of ``DROPS``, or another.
        n: Pairs of final runs a study.
        tuning: Tuning seeds.
        studies: Simulated studies.
        seed: Of the drawing.

    Returns:
        The share with the noise of choosing in the interval, and that without it.
    """
    rng = np.random.default_rng(seed)
    means = np.array([-drop * (np.arange(5) - best) ** 2 for best in (2, 1)])
    runs = means[:, None, :, None] + rng.normal(size=(2, studies, 5, tuning))
    got = np.take_along_axis(means[:, None], runs.mean(-1).argmax(-1)[..., None], -1)[..., 0]
    truth = float((got[0] - got[1]).mean())
    finals = got[..., None] + rng.normal(size=(2, studies, n))
    held = np.zeros(2)
    for k, values in enumerate(finals[0] - finals[1]):
        for with_noise, noise in enumerate((0.0, choice_sd(runs[0, k], runs[1, k]))):
            mean = Sample(values, choice_sd=noise).mean()
            held[with_noise] += mean.low <= truth <= mean.high
    return float(held[1] / studies), float(held[0] / studies)


def main(args: Args) -> None:
    """Print the tables."""

    def show(title: str, cells: Mapping[str, Callable[[int], str]]) -> None:
        lines = ((name, *map(cell, args.pairs)) for name, cell in cells.items())
        table((f"{title}, n =", *map(str, args.pairs)), lines)
        print()

    def covered(cell: str, n: int) -> str:
        return f"{100 * coverage(cell, n, args.studies):.1f}"

    def false(kind: str, n: int) -> str:
        return f"{100 * false_verdicts(kind, args.arms, n, args.null_studies):.1f}"

    def covered_of_tuned(drop: float, tuning: int, n: int) -> str:
        held, bare = coverage_of_tuned(drop, n, tuning, args.null_studies)
        return f"{100 * held:.1f} ({100 * bare:.1f})"

    show("returns of the two arms", {cell: partial(covered, cell) for cell in CELLS})
    show(f"equal arms, {args.arms} of them", {kind: partial(false, kind) for kind in NULL})
    tuned = {f"{d}; {k}": partial(covered_of_tuned, d, k) for d in DROPS for k in (3, 5)}
    show("tuned arms, drop; tuning seeds", tuned)


if __name__ == "__main__":
    _cli.run(main, Args, description=__doc__)
