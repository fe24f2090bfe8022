"""Statistics for some dozens of runs, as pure functions of arrays.

Runs are paired: run i of one arm and run i of another share their seed. Nothing here draws a
random number that is not seeded, so a table made twice is the same.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]

LEAST = 8
"""Runs below which no interval is given: none covers what it says for returns of two kinds."""
CONFIDENCE = 0.95
MOST = 1000
"""Pairs beyond which ``pairs_needed`` gives up."""
ANYWHERE = (-np.inf, np.inf)


def mean_interval(
    values: ArrayLike,
    confidence: float = CONFIDENCE,
    bounds: tuple[float, float] = ANYWHERE,
) -> tuple[Floats, Floats]:
    """Interval for the mean: at each end the wider of two.

    They are Student's t interval and the one by Hall's monotone transformation, which removes
    the skewness of t (Hall, 1992, J. R. Stat. Soc. B 54, 221, with quantiles of Student's t).
    Where all values are equal both have no width, and say too much: a share of the values that
    Clopper and Pearson's limit for zero of n allows may then lie at either bound.

    Args:
        values: ``(..., n)`` with n of 2 or more.
        confidence: Share of such intervals that should hold the mean.
            ``scripts/bench/intervals.py`` prints how many do.
        bounds: Lowest and highest value that there can be, as far as is known.

    Returns:
        The lower and the upper end, shape ``(...)``.
    """
    x = np.asarray(values, dtype=np.float64)
    n = x.shape[-1]
    mean, sd = x.mean(-1), x.std(-1)
    equal = np.ptp(x, axis=-1) == 0
    cubes = ((x - mean[..., None]) ** 3).mean(-1)
    skewness = cubes / np.where(equal, 1.0, sd) ** 3
    t = stats.t.ppf((1 + confidence) / 2, n - 1) / np.sqrt(n - 1)  # in units of sd, which is of n
    down = np.maximum(t, _untransformed(t, skewness, n))
    up = np.maximum(t, -_untransformed(-t, skewness, n))
    share = 1 - ((1 - confidence) / 2) ** (1 / n)
    low = np.where(equal, mean - share * (mean - bounds[0]), mean - sd * down)
    high = np.where(equal, mean + share * (bounds[1] - mean), mean + sd * up)
    return low, high


def _untransformed(x: float, skewness: Floats, n: int) -> Floats:
    """Return y with ``x = y + γ y²/3 + γ² y³/27 + γ/(6 n)``: Hall's inverse, in units of sd."""
    straight = np.abs(skewness) < 1e-6
    gamma = np.where(straight, 1.0, skewness)
    bent = (np.cbrt(1 + gamma * (x - gamma / (6 * n))) - 1) * 3 / gamma
    return np.where(straight, x, bent)


@dataclass(frozen=True)
class Estimate:
    """A number with its interval or, of few runs, with their range."""

    value: float
    low: float
    high: float
    confidence: float | None = CONFIDENCE
    """Of the interval; None for a range, which covers nothing that it could say."""

    @property
    def holds_zero(self) -> bool:
        """True where zero is in the interval."""
        return self.low <= 0 <= self.high

    def __str__(self) -> str:
        """Write the number with as many digits as the interval can tell, a range in words."""
        half, digits = (self.high - self.low) / 2, 2
        if 0 < half < math.inf:
            digits = min(4, max(0, 1 - math.floor(math.log10(half))))
        value, low, high = (f"{x:z.{digits}f}" for x in (self.value, self.low, self.high))
        if self.confidence is not None:
            return f"{value} [{low}, {high}]"
        return value if low == high else f"{value} ({low} to {high})"


@dataclass(frozen=True)
class Sample:
    """Numbers of runs, or differences of pairs of them, and what is not known of their mean."""

    values: Floats
    """``(n,)`` with n of 1 or more."""
    bounds: tuple[float, float] = ANYWHERE
    """Lowest and highest value that there can be, as far as is known."""
    open_below: bool = False
    """Some values are only known to be at most what they say: the mean has no lower limit."""
    open_above: bool = False
    """Some values are only known to be at least what they say."""
    limits: tuple[float, float] = ANYWHERE
    """Lowest and highest mean that there can be."""
    choice_sd: float = 0.0
    """Standard deviation of the mean because settings were chosen; see ``choice_sd``."""

    def mean(self, confidence: float = CONFIDENCE) -> Estimate:
        """Return the mean with its interval or, below ``LEAST`` values, with their range."""
        x, mean = self.values, float(self.values.mean())
        if len(x) < LEAST:
            low, high = float(x.min()), float(x.max())
        else:
            ends = mean_interval(x, confidence, self.bounds)
            choosing = self.choice_sd * float(stats.t.ppf((1 + confidence) / 2, len(x) - 1))
            down, up = (math.hypot(float(end) - mean, choosing) for end in ends)
            low, high = mean - down, mean + up
        low = max(-math.inf if self.open_below else low, self.limits[0])
        high = min(math.inf if self.open_above else high, self.limits[1])
        return Estimate(mean, low, high, confidence if len(x) >= LEAST else None)


def holm(comparisons: Sequence[Sample], alpha: float = 1 - CONFIDENCE) -> list[float]:
    """Confidence for each of several comparisons, so that all hold together (Holm, 1979).

    With m comparisons, all are looked at with ``1 - alpha / m``. Those whose interval leaves out
    zero are done; the others are looked at with the m that is left, until none leaves out zero.
    The probability that any interval leaves out a zero that is true is then at most ``alpha``.
    """
    confidences = [0.0] * len(comparisons)
    left = list(range(len(comparisons)))
    while left:
        confidence = 1 - alpha / len(left)
        for k in left:
            confidences[k] = confidence
        left, before = [k for k in left if comparisons[k].mean(confidence).holds_zero], left
        if left == before:
            break
    return confidences


def pairs_needed(
    sample: Sample, margin: float | None, confidence: float = CONFIDENCE
) -> int | None:
    """Return the pairs with which an interval that is still open would probably decide.

    That is where the t interval around the mean as it is would leave out zero, or lie within
    ``margin`` on both sides of it; where all values are equal, the interval that they have. It is
    a guess from what was seen: mean and spread will move. What is not known because settings were
    chosen stays, however many pairs there are.

    Args:
        sample: The differences so far, two or more.
        margin: A difference that would not matter; None if none was named.
        confidence: Of the interval.

    Returns:
        More than there are; None if ``MOST`` would not do.
    """
    n, mean = len(sample.values), float(sample.values.mean())
    wanted = max(abs(mean), (margin or 0.0) - abs(mean))
    pairs = np.arange(n + 1, max(n + 1, MOST) + 1)
    error = np.hypot(sample.values.std(ddof=1) / np.sqrt(pairs), sample.choice_sd)
    half = stats.t.ppf((1 + confidence) / 2, pairs - 1) * error
    if np.ptp(sample.values) == 0:
        reach = max(mean - sample.bounds[0], sample.bounds[1] - mean)
        half = half + reach * (1 - ((1 - confidence) / 2) ** (1 / pairs))
    enough = pairs[half < wanted]
    return int(enough[0]) if len(enough) else None


def choice_sd(*arms: ArrayLike) -> float:
    """Standard deviation of an arm's mean, or of a difference, because settings were chosen.

    The inner half of a nested bootstrap: the tuning seeds are drawn anew, the best settings are
    chosen from what was drawn, and what the arm has then is taken from all tuning seeds. The outer
    half, the noise of the final runs at given settings, is known without drawing.

    Args:
        *arms: ``(n_settings, n_seeds)``, of the runs that were chosen from, higher is better; of a
            second one, whose settings may be others, at the same seeds for a difference.
    """
    n = np.shape(arms[0])[1]
    drawn = np.random.default_rng(0).integers(n, size=(2000, n))
    changes = []
    for arm in arms:
        scores = np.asarray(arm, dtype=np.float64)
        changes.append(scores.mean(-1)[scores[:, drawn].mean(-1).argmax(0)])
    change = changes[0] if len(arms) == 1 else changes[0] - changes[1]
    return float(change.std() * math.sqrt(n / (n - 1)))  # a resample of n varies by n - 1 of n


def clopper_pearson(successes: float, n: int) -> tuple[float, float]:
    """Exact interval for a probability (Clopper and Pearson, 1934, Biometrika 26, 404).

    It is of ``CONFIDENCE``.

    Args:
        successes: Of ``n`` trials; halves, for ties, make it cover more than it says.
        n: Trials.
    """
    tail = (1 - CONFIDENCE) / 2
    low = stats.beta.ppf(tail, successes, n - successes + 1) if successes > 0 else 0.0
    high = stats.beta.ppf(1 - tail, successes + 1, n - successes) if successes < n else 1.0
    return float(low), float(high)
