"""The figures of a report, as SVG text that stands inside a page."""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from wnrl.study.overall import Overall
from wnrl.study.stats import LEAST, mean_interval
from wnrl.study.summary import Row


def learning_curves(rows: Sequence[Row]) -> str:
    """Draw one line an arm: the mean over runs at each step, with its 95 % interval.

    Of fewer than ``LEAST`` runs the band is their range.

    Args:
        rows: of one task.
    """
    figure = Figure(figsize=(5.6, 3.4), layout="constrained")
    axes = figure.add_subplot()
    metric = rows[0].task.metric
    for row in rows:
        curve = common_curve(row)
        if curve is None:
            continue
        steps, values = curve
        low, high = values.min(-1), values.max(-1)
        if values.shape[-1] >= LEAST:
            low, high = mean_interval(values, bounds=(values.min(), values.max()))
        axes.fill_between(steps, low, high, color=row.arm.colour, alpha=0.18, linewidth=0)
        axes.plot(
            steps,
            values.mean(-1),
            color=row.arm.colour,
            label=row.name,
            linestyle=row.arm.dash,
            linewidth=1.8,
        )
    axes.set_xlabel(metric.steps)
    axes.set_ylabel(metric.curve_label)
    if axes.lines:
        axes.legend(frameon=False)
    return _svg(figure, axes)


def final_scores(rows: Sequence[Row]) -> str:
    """Draw one line an arm: every run as a dot, their mean as a bar with its interval or range.

    Args:
        rows: of one task.
    """
    figure = Figure(figsize=(5.6, 0.9 + 0.5 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for y, row in enumerate(reversed(rows)):
        if row.score is None:
            continue
        colour, score = row.arm.colour, row.score
        ends = [score.low, score.high]
        if np.isfinite(ends).all():
            axes.plot(ends, [y, y], color=colour, linewidth=7, alpha=0.25)
        axes.plot([score.value], [y], "|", color=colour, markersize=17, markeredgewidth=2.5)
        axes.plot(list(row.scores.values()), [y] * len(row.scores), "o", color=colour, markersize=4)
    axes.set_yticks(range(len(rows)), [row.name for row in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel(rows[0].task.metric.label)
    return _svg(figure, axes)


def performance_profiles(arms: Sequence[Overall]) -> str:
    """Draw one line an arm: the share of runs that score more, over scores from 0 to 1."""
    figure = Figure(figsize=(5.6, 3.0), layout="constrained")
    axes = figure.add_subplot()
    thresholds = np.linspace(0.0, 1.0, 101)
    for arm in arms:
        axes.plot(
            thresholds,
            arm.profile(thresholds),
            color=arm.arm.colour,
            label=arm.name,
            linestyle=arm.arm.dash,
            linewidth=1.8,
        )
    axes.set_xlabel("score: 0 at the floor, 1 where the task is solved")
    axes.set_ylabel("share of runs above it")
    axes.legend(frameon=False)
    return _svg(figure, axes)


def common_curve(row: Row) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return the steps that all runs of a row logged and their values.

    Returns:
        Shapes ``(n_steps,)`` and ``(n_steps, n_runs)``; None where no step is common to all.
    """
    tag = row.task.metric.curve
    curves = [o.curves[tag] for o in row.runs.outcomes.values() if o.curves.get(tag)]
    steps = sorted(set.intersection(*map(set, curves))) if curves else []
    if not steps:
        return None
    return np.array(steps), np.array([[curve[step] for curve in curves] for step in steps])


def _svg(figure: Figure, axes: Axes) -> str:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    out = io.StringIO()
    # No date and no random ids: the same runs give the same page.
    with rc_context({"svg.hashsalt": "wnrl"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
