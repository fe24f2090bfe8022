"""Statistics for a handful of runs (Agarwal et al., 2021, arXiv:2108.13264).

Runs are paired: run i of one norm and run i of another share their seed. Everything here is a
pure function of arrays, and the bootstrap has a seed of its own, so a table made twice is the same.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def iqm(scores: ArrayLike, axis: int = -1) -> Floats:
    """Interquartile mean: the mean without the lowest and the highest quarter of the scores.

    A quarter is rounded down to whole scores, as in the paper's code, so that up to three scores
    are all kept.

    Args:
        scores: any shape with runs on one axis.
        axis: that axis; the result lacks it.
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64), axis=axis)
    n = ordered.shape[axis]
    cut = n // 4
    return np.take(ordered, range(cut, n - cut), axis=axis).mean(axis=axis)


def bootstrap_interval(
    scores: ArrayLike,
    statistic: Callable[..., Floats] = iqm,
    *,
    confidence: float = 0.95,
    resamples: int = 5000,
    seed: int = 0,
) -> tuple[Floats, Floats]:
    """Percentile bootstrap interval of ``statistic`` over runs.

    With three runs there are only ten different resamples: the interval then lies within the
    lowest and the highest run and covers the truth less often than it says.

    Args:
        scores: ``(..., n_runs)``; all leading entries are resampled with the same runs, so that
            a curve stays the curve of a run.
        statistic: called with an array and ``axis=-1``.
        confidence: share of the resampled statistics that lies inside.
        resamples: how often the runs are drawn anew.
        seed: of the drawing.

    Returns:
        The lower and the upper end, shape ``(...)``.

    Raises:
        ValueError: there is no run.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.shape[-1] == 0:
        raise ValueError("scores must hold at least one run, got none")
    n = values.shape[-1]
    runs = np.random.default_rng(seed).integers(n, size=(resamples, n))
    drawn = np.stack([statistic(row[runs], axis=-1) for row in values.reshape(-1, n)])
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=-1)
    return low.reshape(values.shape[:-1]), high.reshape(values.shape[:-1])


def probability_of_improvement(scores: ArrayLike, others: ArrayLike) -> float:
    """P(X > Y) for a run X of ``scores`` and a run Y of ``others``; a tie counts one half."""
    x = np.asarray(scores, dtype=np.float64)[:, None]
    y = np.asarray(others, dtype=np.float64)[None, :]
    return float(np.mean((x > y) + 0.5 * (x == y)))
