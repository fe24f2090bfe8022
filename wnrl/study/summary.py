"""From the run folders of a study to the rows of its table."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wnrl.errors import UsageError
from wnrl.runs import RESULT, is_finished, read_json
from wnrl.study.plan import Job, Task
from wnrl.study.stats import bootstrap_interval, iqm, probability_of_improvement

BASELINE = "none"


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
    """One norm on one task."""

    task: Task
    norm: str
    scores: dict[int, float]
    """The metric of each finished run, by seed."""
    score: Interval | None
    """Their IQM; None where no run finished."""
    difference: Interval | None
    """IQM of the differences to ``none`` at the same seed; None without pairs, and for ``none``."""
    better: float | None
    """P(a run of this norm is better than a run of ``none``); a failed run is worse than any."""
    steps_per_second: float | None
    """Median over runs."""
    results: dict[int, dict[str, Any]] = field(repr=False)
    """What the finished runs wrote, by seed."""
    failures: list[str]
    """Why each of the other runs has no score, with its seed."""


def summarise(root: Path, jobs: Iterable[Job], crashed: dict[Job, str]) -> list[Row]:
    """Reads the results below ``root``.

    Args:
        root: the study's folder.
        jobs: what was planned; a folder of another run is not read.
        crashed: the reason for each job that left no result.

    Returns:
        A row for each task, number that it is compared by, and norm, in the order of the jobs.
    """
    groups: dict[tuple[Task, str], list[Job]] = {}
    for job in jobs:
        groups.setdefault((job.task, job.norm), []).append(job)
    read = {key: _read(root, group, crashed) for key, group in groups.items()}
    nothing: Runs = ({}, {})
    return [
        _row(view, norm, runs, read.get((task, BASELINE), nothing))
        for task in dict.fromkeys(task for task, _ in read)
        for view in task.views()
        for (of, norm), runs in read.items()
        if of == task
    ]


# What the finished runs wrote and why the others have no score, each by seed.
Runs = tuple[dict[int, dict[str, Any]], dict[int, str]]


def _read(root: Path, group: list[Job], crashed: dict[Job, str]) -> Runs:
    results, failures = {}, {}
    for job in group:
        folder = root / job.folder
        result: dict[str, Any] = {"reason": crashed.get(job, "unfinished")}
        if is_finished(folder):
            try:
                result = read_json(folder / RESULT)
            except UsageError as error:
                result = {"reason": str(error)}
        if result.get("status") == "finished":
            results[job.seed] = result
        else:
            failures[job.seed] = result["reason"]
    return results, failures


def _row(task: Task, norm: str, runs: Runs, baseline: Runs) -> Row:
    key = task.metric.key
    results, failures = runs
    scores = {seed: result[key] for seed, result in results.items()}
    plain = {seed: result[key] for seed, result in baseline[0].items()}
    paired = [] if norm == BASELINE else sorted(scores.keys() & plain.keys())
    speeds = [result["steps_per_second"] for result in results.values()]
    return Row(
        task=task,
        norm=norm,
        scores=scores,
        score=Interval.of(list(scores.values())) if scores else None,
        difference=Interval.of([scores[s] - plain[s] for s in paired]) if paired else None,
        better=probability_of_improvement(_ranked(task, runs), _ranked(task, baseline))
        if paired
        else None,
        steps_per_second=float(np.median(speeds)) if speeds else None,
        results=results,
        failures=[f"seed {seed}: {reason}" for seed, reason in failures.items()],
    )


def _ranked(task: Task, runs: Runs) -> list[float]:
    """The runs' scores so that higher is better, those without one below all others."""
    results, failures = runs
    sign = 1 if task.metric.higher_is_better else -1
    return [sign * r[task.metric.key] for r in results.values()] + [-np.inf] * len(failures)


COLUMNS = ("norm", "IQM [95 %]", "minus none", "P(better)", "steps/s", "failed")


def cells(row: Row) -> tuple[str, ...]:
    """The row as text, one cell for each of ``COLUMNS``; – where there is nothing to say."""
    return (
        row.norm,
        str(row.score or "–"),
        str(row.difference or "–"),
        "–" if row.better is None else f"{row.better:.2f}",
        "–" if row.steps_per_second is None else f"{row.steps_per_second:,.0f}",
        f"{len(row.failures)}/{len(row.scores) + len(row.failures)}",
    )


def to_csv(rows: Iterable[Row]) -> str:
    """The table with full precision, one line a row; empty where there is no value."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    ends = ("", "_low", "_high")
    writer.writerow(
        ["task", "algo", "norm", "metric", "runs", *(f"iqm{end}" for end in ends),
         *(f"minus_none{end}" for end in ends), "p_better_than_none", "steps_per_second",
         "failed", "failures"]
    )  # fmt: skip
    for row in rows:
        intervals = [
            number
            for interval in (row.score, row.difference)
            for number in (
                (interval.value, _blank(interval.low), _blank(interval.high))
                if interval
                else ("", "", "")
            )
        ]
        writer.writerow(
            [row.task.name, row.task.label, row.norm, row.task.metric.key, len(row.scores),
             *intervals, _blank(row.better), _blank(row.steps_per_second), len(row.failures),
             "; ".join(row.failures)]
        )  # fmt: skip
    return out.getvalue()


def _blank(value: float | None) -> float | str:
    return "" if value is None else value
