"""From the run folders of a study to the rows of its table."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wnrl.runs import RESULT, read_json
from wnrl.study.plan import Job, Task
from wnrl.study.stats import bootstrap_interval, iqm, probability_of_improvement

BASELINE = "none"


@dataclass(frozen=True)
class Interval:
    """A statistic with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, scores: Sequence[float]) -> "Interval":
        """The IQM of ``scores``, one a run."""
        low, high = bootstrap_interval(scores)
        return cls(float(iqm(scores)), float(low), float(high))

    def __str__(self) -> str:
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
    """P(a run of this norm is better than a run of ``none``)."""
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
        A row for each task and norm, in the order of the jobs.
    """
    groups: dict[tuple[Task, str], list[Job]] = {}
    for job in jobs:
        groups.setdefault((job.task, job.norm), []).append(job)
    read = {key: _read(root, group, crashed) for key, group in groups.items()}
    return [
        _row(task, norm, results, failures, read.get((task, BASELINE), ({}, []))[0])
        for (task, norm), (results, failures) in read.items()
    ]


def _read(
    root: Path, group: list[Job], crashed: dict[Job, str]
) -> tuple[dict[int, dict[str, Any]], list[str]]:
    results, failures = {}, []
    for job in group:
        path = root / job.folder / RESULT
        result = read_json(path) if path.is_file() else {"status": "unfinished"}
        if result["status"] == "finished":
            results[job.seed] = result
        else:
            reason = result.get("reason") or crashed.get(job, "unfinished")
            failures.append(f"seed {job.seed}: {reason}")
    return results, failures


def _row(
    task: Task,
    norm: str,
    results: dict[int, dict[str, Any]],
    failures: list[str],
    baseline: dict[int, dict[str, Any]],
) -> Row:
    key, sign = task.metric.key, 1 if task.metric.higher_is_better else -1
    scores = {seed: result[key] for seed, result in results.items()}
    plain = {seed: result[key] for seed, result in baseline.items()}
    paired = [] if norm == BASELINE else sorted(scores.keys() & plain.keys())
    speeds = [result["steps_per_second"] for result in results.values()]
    return Row(
        task=task,
        norm=norm,
        scores=scores,
        score=Interval.of(list(scores.values())) if scores else None,
        difference=Interval.of([scores[s] - plain[s] for s in paired]) if paired else None,
        better=probability_of_improvement(
            [sign * score for score in scores.values()], [sign * score for score in plain.values()]
        )
        if paired
        else None,
        steps_per_second=float(np.median(speeds)) if speeds else None,
        results=results,
        failures=failures,
    )


COLUMNS = ("task", "norm", "runs", "IQM [95 %]", "minus none", "P(better)", "steps/s", "failed")


def cells(row: Row) -> tuple[str, ...]:
    """The row as text, one cell for each of ``COLUMNS``; – where there is nothing to say."""
    return (
        f"{row.task.title}, {row.task.metric.label}",
        row.norm,
        str(len(row.scores)),
        str(row.score or "–"),
        str(row.difference or "–"),
        "–" if row.better is None else f"{row.better:.2f}",
        "–" if row.steps_per_second is None else f"{row.steps_per_second:,.0f}",
        str(len(row.failures)),
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
            for number in ((interval.value, interval.low, interval.high) if interval else [""] * 3)
        ]
        writer.writerow(
            [row.task.name, row.task.algo, row.norm, row.task.metric.key, len(row.scores),
             *intervals, _blank(row.better), _blank(row.steps_per_second), len(row.failures),
             "; ".join(row.failures)]
        )  # fmt: skip
    return out.getvalue()


def _blank(value: float | None) -> float | str:
    return "" if value is None else value
