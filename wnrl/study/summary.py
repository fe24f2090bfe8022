"""From the run folders of a study to the rows of its table."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from wnrl.study.outcomes import Runs, Scale, read_runs, within
from wnrl.study.plan import NOTHING, Arm, Cell, Point, Task, Trial, grouped
from wnrl.study.stats import CONFIDENCE, LEAST, Estimate, Floats, Sample, choice_sd, holm
from wnrl.study.tuning import Choice, Choices
from wnrl.study.verdicts import Verdict, judge


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
    choice: Choice | None = None
    """Settings that were chosen for this arm."""
    time: float | None = None
    """Seconds of training after which all arms of the task are compared at equal time: what the
    fastest of them took."""
    at_time: Estimate | None = None
    """The learning curve then: the mean over the last tenth of that time and over runs."""

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
    def reasons(self) -> dict[int, str]:
        """Why each of the runs without a score has none, by seed."""
        return dict(sorted({**self.runs.failed, **self.runs.missing}.items()))

    @property
    def failures(self) -> list[str]:
        """The same as sentences."""
        return [f"seed {seed}: {reason}" for seed, reason in self.reasons.items()]

    @property
    def diagnostics(self) -> dict[str, float]:
        """Their last values, by tags: the mean over runs."""
        of_runs = [outcome.diagnostics for outcome in self.runs.outcomes.values()]
        tags = dict.fromkeys(tag for values in of_runs for tag in values)
        return {tag: float(np.mean([v[tag] for v in of_runs if tag in v])) for tag in tags}

    @property
    def plain_parts(self) -> list[str]:
        """Names of the layers that the norm was not applied to."""
        return sorted({part for o in self.runs.outcomes.values() for part in o.plain_parts})


def by_task(rows: Iterable[Row]) -> dict[Task, list[Row]]:
    """Return the rows of each task, or of each number that a task is compared by."""
    return grouped((row.task, row) for row in rows)


def summarise(
    root: Path,
    trials: Iterable[Trial],
    baseline: str,
    choices: Choices = NOTHING,
) -> list[Row]:
    """Read the results below ``root``.

    Args:
        root: The study's folder.
        trials: What was planned; a folder of another run is not read.
        baseline: Name of the arm that the others are compared with.
        choices: Settings that were chosen, whose noise belongs into the intervals.

    Returns:
        A row for each task, number that it is compared by, point and arm, in the order of trials.
        The intervals of all differences hold together, those of further numbers each by itself.
    """
    groups = grouped((trial.cell, trial) for trial in trials)
    read = {cell: read_runs(root, group) for cell, group in groups.items()}
    rows = []
    for task in dict.fromkeys(task for task, _, _ in read):
        of_task = {cell: runs for cell, runs in read.items() if cell[0] == task}
        for view in task.views():
            rows += _rows(view, of_task, baseline, choices)
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


def _rows(task: Task, read: Mapping[Cell, Runs], baseline: str, choices: Choices) -> list[Row]:
    """Return the rows of a task as seen by its metric."""
    scale, tag = Scale.of(task, read.values()), task.metric.curve
    others = {cell[2]: cell for cell in read if cell[1].name == baseline}
    timed = [seconds for runs in read.values() if (seconds := runs.seconds) and runs.curve(tag)]
    time, rows = min(timed, default=None), []
    for cell, runs in read.items():
        first, arm, point = cell
        other = others.get(point, cell)
        other_runs = Runs() if other == cell else read[other]
        ours, theirs = ([choices[c].scores] if c in choices else [] for c in (cell, other))
        at_time = None if time is None else _at(time, runs, task)
        rows.append(
            Row(
                task,
                arm,
                point,
                baseline,
                runs,
                sample=_with_choice(scale.sample(runs), ours),
                differences=_with_choice(scale.differences(runs, other_runs), ours + theirs),
                better=scale.better(runs, other_runs),
                solved=scale.solved(runs),
                confidence=CONFIDENCE if task == first else None,
                choice=choices.get(cell),
                time=time if at_time else None,
                at_time=at_time,
            )
        )
    return rows


def _at(time: float, runs: Runs, task: Task) -> Estimate | None:
    """Return the mean over the last tenth of a time, from the beginning, and over runs."""
    curve, seconds = runs.curve(task.metric.curve), runs.seconds
    if curve is None or seconds is None:
        return None
    steps, values = curve
    last = np.linspace(0.9, 1.0, 11) * time * steps[-1] / seconds
    at = [np.interp(last, steps, run).mean() for run in values.T]
    return Sample(np.array(at), (values.min(), values.max()), limits=within(task, values)).mean()


def _with_choice(sample: Sample | None, noise: list[Floats]) -> Sample | None:
    return replace(sample, choice_sd=choice_sd(*noise)) if sample and noise else sample
