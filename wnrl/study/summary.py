"""From the run folders of a study to the rows of its table."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from wnrl.errors import UsageError, printable
from wnrl.runs import RESULT, is_finished, read_json
from wnrl.study.plan import Arm, Task, Trial
from wnrl.study.stats import (
    CONFIDENCE,
    LEAST,
    Estimate,
    Sample,
    clopper_pearson,
    holm,
)
from wnrl.study.verdicts import Verdict, judge

Point = tuple[tuple[str, Any], ...]


class FailedRunError(UsageError):
    """A run ended without a score, because of what was trained."""


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
        FailedRunError: The run failed, for the reason that the message has.
        UsageError: The result is no result: a score that is no number never reaches a table.
    """
    status = result.get("status")
    if status == "failed":
        raise FailedRunError(printable(result.get("reason") or "failed, and says no reason", 500))
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
class Runs:
    """The runs of one arm on one task at one point of the axes, by seed."""

    outcomes: dict[int, Outcome] = field(default_factory=dict)
    """Of those that finished."""
    failed: dict[int, str] = field(default_factory=dict)
    """Why each of these has no score; it counts as the worst."""
    missing: dict[int, str] = field(default_factory=dict)
    """Why nothing is known of each of these; it counts as if it had not been planned."""

    def scores(self, key: str) -> dict[int, float]:
        """Return the scores of the finished runs."""
        return {seed: outcome.scores[key] for seed, outcome in self.outcomes.items()}


@dataclass(frozen=True)
class Row:
    """One arm on one task at one point of the axes."""

    task: Task
    arm: Arm
    point: Point
    """Name and value of each axis."""
    baseline: str
    """Name of the arm that it is compared with."""
    runs: Runs = field(repr=False)
    sample: Sample | None
    """Scores, of failed runs too; None where there is no run, or no number for a failed one."""
    differences: Sample | None
    """Scores minus those of the baseline at the same seed and point; None for the baseline, and
    where there is no pair."""
    better: Estimate | None
    """Per cent of the pairs in which the arm's run is better; ties count one half, and a failed
    run is worse than any other."""
    solved: Estimate | None
    """Per cent of the runs that solved the task; None where it does not say when it is solved."""
    confidence: float | None = CONFIDENCE
    """Of the interval of the difference; None for a further number, which gets no verdict."""

    @property
    def name(self) -> str:
        """Name in tables and figures: the arm's, with the point where there are axes."""
        return ", ".join([self.arm.name, *(f"{axis}={value}" for axis, value in self.point)])

    @property
    def scores(self) -> dict[int, float]:
        """The metric of each finished run, by seed."""
        return self.runs.scores(self.task.metric.key)

    @property
    def score(self) -> Estimate | None:
        """The mean over runs."""
        return None if self.sample is None else self.sample.mean()

    @property
    def difference(self) -> Estimate | None:
        """The mean difference to the baseline."""
        if self.differences is None:
            return None
        return self.differences.mean(self.confidence or CONFIDENCE)

    @property
    def verdict(self) -> Verdict | None:
        """What the difference says; None for the baseline and for further numbers."""
        if self.differences is None or self.confidence is None:
            return None
        return judge(self.task, self.baseline, self.differences, self.confidence)

    @property
    def steps_per_second(self) -> float | None:
        """Median over runs."""
        speeds = [o.steps_per_second for o in self.runs.outcomes.values()]
        known = [speed for speed in speeds if speed is not None]
        return float(np.median(known)) if known else None

    @property
    def failures(self) -> list[str]:
        """Why each of the runs without a score has none, with its seed."""
        reasons = {**self.runs.failed, **self.runs.missing}
        return [f"seed {seed}: {reason}" for seed, reason in sorted(reasons.items())]


def summarise(
    root: Path, trials: Iterable[Trial], baseline: str, crashed: Mapping[Trial, str]
) -> list[Row]:
    """Read the results below ``root``.

    Args:
        root: The study's folder.
        trials: What was planned; a folder of another run is not read.
        baseline: Name of the arm that the others are compared with.
        crashed: The reason for each trial that left no result, which counts as failed.

    Returns:
        A row for each task, number that it is compared by, point and arm, in the order of trials.
        The intervals of all differences hold together, those of further numbers each by itself.
    """
    groups: dict[tuple[Task, Arm, Point], list[Trial]] = {}
    for trial in trials:
        groups.setdefault((trial.task, trial.arm, trial.point), []).append(trial)
    read = {key: _read(root, group, crashed) for key, group in groups.items()}
    rows = []
    for task in dict.fromkeys(task for task, _, _ in read):
        of_task = {(arm, point): runs for (of, arm, point), runs in read.items() if of == task}
        for view in task.views():
            rows += _rows(view, of_task, baseline, CONFIDENCE if view == task else None)
    return _judged_together(rows)


def _judged_together(rows: list[Row]) -> list[Row]:
    """Give each row whose verdict an interval decides the confidence that Holm asks for."""
    judged = {
        k: row.differences
        for k, row in enumerate(rows)
        if row.differences and row.confidence and len(row.differences.values) >= LEAST
    }
    together = dict(zip(judged, holm(list(judged.values())), strict=True))
    return [replace(row, confidence=together.get(k, row.confidence)) for k, row in enumerate(rows)]


def _read(root: Path, group: list[Trial], crashed: Mapping[Trial, str]) -> Runs:
    runs = Runs()
    for trial in group:
        try:
            if is_finished(root / trial.folder):
                result = read_json(root / trial.folder / RESULT)
                runs.outcomes[trial.seed] = read_outcome(trial.task, result)
            elif trial in crashed:
                runs.failed[trial.seed] = printable(crashed[trial], 500)
            else:
                runs.missing[trial.seed] = "unfinished"
        except FailedRunError as error:
            runs.failed[trial.seed] = str(error)
        except UsageError as error:
            runs.missing[trial.seed] = printable(error, 500)
    return runs


def _rows(
    task: Task, read: Mapping[tuple[Arm, Point], Runs], baseline: str, confidence: float | None
) -> list[Row]:
    """Return the rows of a task as seen by its metric."""
    scale = _Scale.of(task, read.values())
    others = {point: runs for (arm, point), runs in read.items() if arm.name == baseline}
    rows = []
    for (arm, point), runs in read.items():
        other = Runs() if arm.name == baseline else others.get(point, Runs())
        rows.append(
            Row(
                task,
                arm,
                point,
                baseline,
                runs,
                sample=scale.sample(runs),
                differences=scale.differences(runs, other),
                better=scale.better(runs, other),
                solved=scale.solved(runs),
                confidence=confidence,
            )
        )
    return rows


@dataclass(frozen=True)
class _Scale:
    """How the runs of a task count: the finished ones by their scores, the failed ones as worst.

    In ranks a failed run is below every finished one. In means it has the floor of the task, or
    the worst score of all its runs if that is worse. Without a floor that score is only a limit,
    and the mean is open on this side.
    """

    task: Task
    low: float | None
    """The lowest score of all runs, and of what the task says of its scores; None without any."""
    high: float | None

    @classmethod
    def of(cls, task: Task, read: Iterable[Runs]) -> "_Scale":
        known = [value for value in (task.floor, task.solved) if value is not None]
        known += [score for runs in read for score in runs.scores(task.metric.key).values()]
        return cls(task, min(known, default=None), max(known, default=None))

    @property
    def _sign(self) -> int:
        return 1 if self.task.metric.higher_is_better else -1

    def _counted(self, runs: Runs) -> dict[int, float]:
        worst = self.low if self._sign == 1 else self.high
        failed = {} if worst is None else dict.fromkeys(runs.failed, worst)
        return runs.scores(self.task.metric.key) | failed

    def _open(self, worse: Runs, better: Runs) -> dict[str, bool]:
        """Tell on which sides a mean is open where those may be worse, and these better."""
        known = self.task.floor is not None
        ends = [bool(runs.failed) and not known for runs in (worse, better)]
        return dict(zip(("open_below", "open_above"), ends[:: self._sign], strict=True))

    def sample(self, runs: Runs) -> Sample | None:
        values = np.array(list(self._counted(runs).values()))
        if not len(values) or self.low is None or self.high is None:
            return None
        return Sample(values, (self.low, self.high), **self._open(runs, Runs()))

    def differences(self, runs: Runs, others: Runs) -> Sample | None:
        ours, theirs = self._counted(runs), self._counted(others)
        values = np.array([ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs)])
        if not len(values) or self.low is None or self.high is None:
            return None
        reach = self.high - self.low
        return Sample(values, (-reach, reach), **self._open(runs, others))

    def better(self, runs: Runs, others: Runs) -> Estimate | None:
        ours, theirs = self._ranks(runs), self._ranks(others)
        pairs = [(ours[seed], theirs[seed]) for seed in ours.keys() & theirs]
        if not pairs:
            return None
        wins = sum((a > b) + 0.5 * (a == b) for a, b in pairs)
        return _per_cent(wins, len(pairs))

    def _ranks(self, runs: Runs) -> dict[int, float]:
        scores = runs.scores(self.task.metric.key).items()
        ranks = {seed: self._sign * score for seed, score in scores}
        return ranks | dict.fromkeys(runs.failed, -math.inf)

    def solved(self, runs: Runs) -> Estimate | None:
        if self.task.solved is None or not (ranks := self._ranks(runs)):
            return None
        limit = self._sign * self.task.solved
        return _per_cent(sum(rank >= limit for rank in ranks.values()), len(ranks))


def _per_cent(successes: float, n: int) -> Estimate:
    low, high = clopper_pearson(successes, n)
    return Estimate(100 * successes / n, 100 * low, 100 * high)
