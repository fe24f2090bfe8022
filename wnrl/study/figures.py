"""The figures of a report, as SVG text that stands inside a page."""

import io
import itertools
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wnrl.errors import is_real, printable
from wnrl.study.outcomes import within
from wnrl.study.overall import Overall
from wnrl.study.stats import LEAST, Estimate, Floats, mean_interval
from wnrl.study.summary import Row, by_task

MARKERS = {"o": "●", "s": "■", "D": "◆", "^": "▲", "v": "▼", "P": "✚", "*": "★", "X": "✖",
           "<": "◀", ">": "▶"}  # fmt: skip
"""Markers as matplotlib calls them, and as characters."""
# Text stays text, none of it is a formula, and there are no random ids: the same runs give the
# same page.
STYLE: Any = {"svg.hashsalt": "wnrl", "svg.fonttype": "none", "text.parse_math": False,
              "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
              "grid.alpha": 0.25, "legend.frameon": False, "legend.fontsize": 8}  # fmt: skip
LABELLED = 10
"""Runs of an arm up to which each dot says its seed."""


Looks = Mapping[str, Mapping[str, Any]]
"""By the names of rows, how an arm is drawn: what ``Axes.plot`` takes."""


def looks_of(rows: Iterable[Row]) -> Looks:
    """Return a look for each name among rows.

    Markers come in the order of the names: up to ten arms differ in theirs, whatever their colours.
    """
    arms, markers = {row.name: row.arm for row in rows}, itertools.cycle(MARKERS)
    return {
        name: {"color": arm.colour, "linestyle": arm.dash, "marker": next(markers)}
        for name, arm in arms.items()
    }


def mean_curve(row: Row) -> tuple[Floats, Floats, Floats, Floats] | None:
    """Return steps, mean over runs, and the ends of its interval; of few runs those of a range.

    Returns:
        Each of shape ``(n_steps,)``; None where no step is common to all runs.
    """
    curve = row.runs.curve(row.task.metric.curve)
    if curve is None:
        return None
    steps, values = curve
    ends = values.min(-1), values.max(-1)
    if values.shape[-1] >= LEAST:
        low, high = mean_interval(values, bounds=(values.min(), values.max()))
        limits = within(row.task, values)
        ends = low.clip(*limits), high.clip(*limits)
    return steps, values.mean(-1), *ends


@rc_context(STYLE)
def learning_curves(rows: Sequence[Row], looks: Looks, over_time: bool = False) -> str:
    """Draw one line an arm: the mean over runs with its interval, or their range if they are few.

    Args:
        rows: Of one task.
        looks: Of the rows.
        over_time: Over seconds of training, in which steps of an arm take its median time.
    """
    metric = rows[0].task.metric
    figure, axes = _axes("seconds of training" if over_time else metric.steps, metric.curve_label)
    for row in rows:
        curve, seconds = mean_curve(row), row.runs.seconds
        if curve is None or (over_time and seconds is None):
            continue
        steps, mean, low, high = curve
        x = steps * (seconds / steps[-1]) if over_time and seconds else steps
        _line(axes, looks[row.name], x, mean, row.name)
        axes.fill_between(x, low, high, color=row.arm.colour, alpha=0.15, linewidth=0)
    return _svg(figure)


@rc_context(STYLE)
def final_scores(rows: Sequence[Row], looks: Looks, address: Callable[[PurePath], str]) -> str:
    """Draw one line an arm: every run as a dot, their mean as a bar with its interval or range.

    Args:
        rows: Of one task.
        looks: Of the rows.
        address: From the folder of a run to where its dot leads.
    """
    figure, axes = _axes(rows[0].task.metric.label, height=0.9 + 0.65 * len(rows))
    for y, row in enumerate(reversed(rows)):
        look, seeds, values = looks[row.name], list(row.scores), list(row.scores.values())
        if row.score is not None:
            _bar(axes, row.score, y, look)
        spread = np.zeros(1) if len(seeds) == 1 else np.linspace(0.3, -0.3, len(seeds))
        dots = axes.scatter(values, y + spread, 16, color=look["color"], marker=look["marker"])
        dots.set_urls([address(row.runs.folders[seed]) for seed in seeds])
        for k, seed in enumerate(seeds if len(seeds) <= LABELLED else ()):
            away, side = ((4, "left"), (-4, "right"))[k % 2]
            small: Any = {"textcoords": "offset points", "va": "center", "fontsize": 6}
            axes.annotate(str(seed), (values[k], y + spread[k]), (away, 0), ha=side, **small)
    _name_rows(axes, rows)
    return _svg(figure)


@rc_context(STYLE)
def effects(rows: Sequence[Row], looks: Looks) -> str:
    """Draw the differences to the baseline with their intervals, a panel a task.

    To the right is better. A band is what the task calls negligible.

    Args:
        rows: Those that have a difference.
        looks: Of the rows.
    """
    tasks = by_task(rows)
    heights = [len(of_task) + 1.6 for of_task in tasks.values()]
    figure = Figure((7.0, 0.32 * sum(heights)), layout="constrained")
    panels = figure.subplots(len(tasks), squeeze=False, height_ratios=heights)[:, 0]
    for axes, (task, of_task) in zip(panels, tasks.items(), strict=True):
        if task.negligible:
            axes.axvspan(-task.negligible, task.negligible, color="#dddddd", alpha=0.6)
        axes.axvline(0, color="black", linewidth=1)
        for y, row in enumerate(reversed(of_task)):
            if row.difference is not None:
                _bar(axes, row.difference, y, looks[row.name])
        _name_rows(axes, of_task)
        if not task.metric.higher_is_better:
            axes.invert_xaxis()
        axes.set_title(printable(task.title), fontsize=9, loc="left")
        minus = f"{printable(task.metric.label)} minus that of {of_task[0].baseline}"
        axes.set_xlabel(minus, fontsize=8)
        axes.tick_params(labelsize=8)
    return _svg(figure)


@rc_context(STYLE)
def over_choices(rows: Sequence[Row], looks: Looks, setting: str) -> str:
    """Draw the mean score on tuning seeds over the values of a setting; what was chosen is ringed.

    Where other settings were chosen too, each value has the best of them.

    Args:
        rows: Of one task, with choices.
        looks: Of the rows.
        setting: The name of what was chosen.
    """
    metric = rows[0].task.metric
    sign, tried = 1 if metric.higher_is_better else -1, set()
    figure, axes = _axes(setting, f"{metric.label} on tuning seeds")
    for row in rows:
        if row.choice is None or setting not in row.choice.grid:
            continue
        values, means = row.choice.grid[setting], row.choice.means(setting)
        tried |= {*values}
        place = values.index(dict(row.choice.settings)[setting])
        x = values if all(map(is_real, values)) else [str(value) for value in values]
        y = [sign * mean for mean in means]
        _line(axes, looks[row.name], x, y, row.name)
        at = x[place], y[place]
        axes.plot(*at, "o", color=row.arm.colour, markersize=13, fillstyle="none")
        if setting in row.choice.edges:
            axes.annotate("edge", at, (0, 9), textcoords="offset points", ha="center", fontsize=7)
    _set_ticks(axes, sorted(tried, key=str))
    return _svg(figure)


@rc_context(STYLE)
def over_dial(rows: Sequence[tuple[float, Row]], looks: Looks, dial: str) -> str:
    """Draw one line an arm: the mean score over the values of a dial, with intervals.

    Args:
        rows: Each with the value of its dial; names are those of arms.
        looks: Of the arms.
        dial: Its name.
    """
    figure, axes = _axes(dial, rows[0][1].task.metric.label)
    for name in dict.fromkeys(row.arm.name for _, row in rows):
        points = [(x, row.score) for x, row in rows if row.arm.name == name and row.score]
        points.sort(key=lambda point: point[0])
        x, means = [value for value, _ in points], [score.value for _, score in points]
        _line(axes, looks[name], x, means, name)
        low, high = ([getattr(score, end) for _, score in points] for end in ("low", "high"))
        if np.isfinite([*low, *high]).all():
            axes.fill_between(x, low, high, color=looks[name]["color"], alpha=0.12, linewidth=0)
    _set_ticks(axes, list(dict.fromkeys(value for value, _ in rows)))
    return _svg(figure)


@rc_context(STYLE)
def performance_profiles(arms: Sequence[Overall], looks: Looks) -> str:
    """Draw one line an arm: the share of runs that score more, over scores from 0 to 1."""
    thresholds = np.linspace(0.0, 1.0, 101)
    xlabel = "score: 0 at the floor, 1 where the task is solved"
    figure, axes = _axes(xlabel, "share of runs above it")
    for arm in arms:
        _line(axes, looks[arm.name], thresholds, arm.profile(thresholds), arm.name)
    return _svg(figure)


def _axes(xlabel: str, ylabel: str = "", height: float = 3.4) -> tuple[Figure, Axes]:
    figure = Figure((5.6, height), layout="constrained")  # in inches
    axes = figure.add_subplot()
    axes.set_xlabel(printable(xlabel))
    axes.set_ylabel(printable(ylabel))
    return figure, axes


def _line(axes: Axes, look: Mapping[str, Any], x: Any, y: Any, label: str) -> None:
    axes.plot(x, y, **look, label=label, linewidth=1.6, markersize=5, markevery=max(1, len(x) // 8))


def _bar(axes: Axes, estimate: Estimate, y: float, look: Mapping[str, Any]) -> None:
    """Draw a mean as a bar across its interval or range, where that has ends."""
    ends, color = [estimate.low, estimate.high], look["color"]
    if np.isfinite(ends).all():
        axes.plot(ends, [y, y], color=color, linewidth=6, alpha=0.3)
    axes.plot([estimate.value], [y], "|", color=color, markersize=15, markeredgewidth=2.5)


def _name_rows(axes: Axes, rows: Sequence[Row]) -> None:
    axes.set_yticks(range(len(rows)), [row.name for row in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.4)


def _set_ticks(axes: Axes, values: Sequence[Any]) -> None:
    """Put a tick where runs are, if these are numbers."""
    if values and all(map(is_real, values)):
        if 0 < 20 * min(values) < max(values):
            axes.set_xscale("log")
        axes.set_xticks(values, [f"{value:.3g}" for value in values])
        axes.minorticks_off()


def _svg(figure: Figure) -> str:
    for axes in figure.axes:
        if axes.get_legend_handles_labels()[1]:
            axes.legend()
    out = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the reader's fonts may have it
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
