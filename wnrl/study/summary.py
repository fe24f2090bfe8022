"""From the run folders of a study to the rows of its table."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wnrl.errors import UsageError, printable
from wnrl.runs import RESULT, is_finished, read_json
from wnrl.study.plan import Arm, Task, Trial
from wnrl.study.stats import bootstrap_interval, iqm, probability_of_improvement


@dataclass(frozen=True)
class Outcome:
    """Numbers of a finished run."""

    scores: dict[str, float]
    """By the metrics' keys."""
    curves: dict[str, dict[float, float]]
    """By the curves' tags, from steps to values."""
    steps_per_second: float | None
    plain_parts: tuple[str, ...]
    """Names of the layers that the norm was not applied to."""


def read_outcome(task: Task, result: Mapping[str, Any]) -> Outcome:
    """Return the numbers of a run from what its runner left in ``result.json``.

    Raises:
        UsageError: The run failed, for the reason that the message has, or the result is no
            result: a score that is no number never reaches a table.
    """
    status = result.get("status")
    if status == "failed":
        raise UsageError(printable(result.get("reason") or "failed, and says no reason", 500))
    try:
        if status != "finished":
            raise ValueError(f"status is {status!r}")
        curve = dict(result.get("curve", {}))
        speed = result.get("steps_per_second")
        metrics = (task.metric, *task.also)
        return Outcome(
            scores={m.key: _number(m.key, result.get(m.key)) for m in metrics},
            curves={m.curve: _curve(m.curve, curve) for m in metrics if m.curve in curve},
            steps_per_second=None if speed is None else _number("steps_per_second", speed),
            plain_parts=tuple(map(printable, result.get("plain_parts", ()))),
        )
    except (ValueError, TypeError, LookupError) as error:
        raise UsageError(f"{RESULT} is damaged: {printable(error)}") from error


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}")
    return float(value)


def _curve(tag: str, curve: Mapping[str, Any]) -> dict[float, float]:
    pairs = zip(curve["steps"], curve[tag], strict=True)
    return {_number("a step", step): _number(tag, value) for step, value in pairs}


@dataclass(frozen=True)
class Interval:
    """A statistic with its 95 % bootstrap interval; a single run has none."""

    value: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, scores: Sequence[float]) -> "Interval":
        """The IQM of ``scores``, one a run."""
        if len(scores) == 1:
            return cls(scores[0], None, None)
        low, high = bootstrap_interval(scores)
        return cls(float(iqm(scores)), float(low), float(high))

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.2f}"
        digits = 1 if max(abs(self.value), abs(self.low), abs(self.high)) >= 100 else 2
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


@dataclass(frozen=True)
class Row:
    """One arm on one task at one point of the axes."""

    task: Task
    arm: Arm
    point: tuple[tuple[str, Any], ...]
    """Name and value of each axis."""
    scores: dict[int, float]
    """The metric of each finished run, by seed."""
    score: Interval | None
    """Their IQM; None where no run finished."""
    difference: Interval | None
    """IQM of the differences to the baseline at the same seed and point; None without pairs, and
    for the baseline."""
    better: float | None
    """P(a run of this arm is better than one of the baseline); a failed run is worse than any."""
    steps_per_second: float | None
    """Median over runs."""
    outcomes: dict[int, Outcome] = field(repr=False)
    """All numbers of the finished runs, by seed."""
    failures: list[str]
    """Why each of the other runs has no score, with its seed."""

    @property
    def name(self) -> str:
        """Name in tables and figures: the arm's, with the point where there are axes."""
        return ", ".join([self.arm.name, *(f"{axis}={value}" for axis, value in self.point)])


# Outcomes of the finished runs and why the others have no score, each by seed.
Runs = tuple[dict[int, Outcome], dict[int, str]]


def summarise(
    root: Path, trials: Iterable[Trial], baseline: str, crashed: Mapping[Trial, str]
) -> list[Row]:
    """Read the results below ``root``.

    Args:
        root: The study's folder.
        trials: What was planned; a folder of another run is not read.
        baseline: Name of the arm that the others are compared with.
        crashed: The reason for each trial that left no result.

    Returns:
        A row for each task, number that it is compared by, point and arm, in the order of trials.
    """
    groups: dict[tuple[Task, Arm, tuple[tuple[str, Any], ...]], list[Trial]] = {}
    for trial in trials:
        groups.setdefault((trial.task, trial.arm, trial.point), []).append(trial)
    read = {key: _read(root, group, crashed) for key, group in groups.items()}
    baselines = {(task, at): runs for (task, arm, at), runs in read.items() if arm.name == baseline}
    return [
        _row(view, arm, point, runs, None if arm.name == baseline else baselines.get((task, point)))
        for task in dict.fromkeys(task for task, _, _ in read)
        for view in task.views()
        for (of, arm, point), runs in read.items()
        if of == task
    ]


def _read(root: Path, group: list[Trial], crashed: Mapping[Trial, str]) -> Runs:
    outcomes, failures = {}, {}
    for trial in group:
        try:
            if not is_finished(root / trial.folder):
                raise UsageError(crashed.get(trial, "unfinished"))
            result = read_json(root / trial.folder / RESULT)
            outcomes[trial.seed] = read_outcome(trial.task, result)
        except UsageError as error:
            failures[trial.seed] = printable(error, 500)
    return outcomes, failures


def _row(
    task: Task, arm: Arm, point: tuple[tuple[str, Any], ...], runs: Runs, baseline: Runs | None
) -> Row:
    key = task.metric.key
    outcomes, failures = runs
    scores = {seed: outcome.scores[key] for seed, outcome in outcomes.items()}
    others = {seed: outcome.scores[key] for seed, outcome in (baseline or ({}, {}))[0].items()}
    paired = sorted(scores.keys() & others.keys())
    speeds = [o.steps_per_second for o in outcomes.values() if o.steps_per_second is not None]
    return Row(
        task=task,
        arm=arm,
        point=point,
        scores=scores,
        score=Interval.of(list(scores.values())) if scores else None,
        difference=Interval.of([scores[s] - others[s] for s in paired]) if paired else None,
        better=probability_of_improvement(_ranked(task, runs), _ranked(task, baseline))
        if paired and baseline
        else None,
        steps_per_second=float(np.median(speeds)) if speeds else None,
        outcomes=outcomes,
        failures=[f"seed {seed}: {reason}" for seed, reason in failures.items()],
    )


def _ranked(task: Task, runs: Runs) -> list[float]:
    """Return the runs' scores so that higher is better, those without one below all others."""
    outcomes, failures = runs
    sign = 1 if task.metric.higher_is_better else -1
    scores = [sign * outcome.scores[task.metric.key] for outcome in outcomes.values()]
    return scores + [-np.inf] * len(failures)


def columns(baseline: str) -> tuple[str, ...]:
    """Return the heads of a table's columns."""
    return ("arm", "IQM [95 %]", f"minus {baseline}", "P(better)", "steps/s", "failed")


def cells(row: Row) -> tuple[str, ...]:
    """Return the row as text, a cell a column; – where there is nothing to say."""
    return (
        row.name,
        str(row.score or "–"),
        str(row.difference or "–"),
        "–" if row.better is None else f"{row.better:.2f}",
        "–" if row.steps_per_second is None else f"{row.steps_per_second:,.0f}",
        f"{len(row.failures)}/{len(row.scores) + len(row.failures)}",
    )


def to_csv(rows: Sequence[Row], baseline: str) -> str:
    """Return the table with full precision, one line a row; empty where there is no value."""
    out = io.StringIO()
    axes = [name for name, _ in rows[0].point] if rows else []
    ends = ("", "_low", "_high")
    fields = [
        *("task", "algo", "arm", "norm", *axes, "metric", "runs", *(f"iqm{end}" for end in ends)),
        *("baseline", *(f"minus_baseline{end}" for end in ends), "p_better_than_baseline"),
        *("steps_per_second", "failed", "failures"),
    ]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(fields)
    for row in rows:
        task, values = row.task, [value for _, value in row.point]
        writer.writerow([
            *(task.name, task.label, row.arm.name, row.arm.norm, *values, task.metric.key),
            *(len(row.scores), *_ends(row.score), baseline, *_ends(row.difference)),
            *(row.better, row.steps_per_second, len(row.failures), "; ".join(row.failures)),
        ])  # fmt: skip
    return out.getvalue()


def _ends(interval: Interval | None) -> tuple[float | None, ...]:
    return (interval.value, interval.low, interval.high) if interval else (None, None, None)
