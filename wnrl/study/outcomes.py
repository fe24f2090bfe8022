"""The runs of an arm: what their folders say, and how each of them counts."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from wnrl.errors import UsageError, as_usage_error, is_real, printable
from wnrl.runs import RESULT, is_finished, read_json
from wnrl.runs.folder import crashes
from wnrl.study.plan import Task, Trial
from wnrl.study.stats import ANYWHERE, Estimate, Floats, Sample, clopper_pearson

Range = tuple[float, float]
COSTS = ("wall_time", "steps", "steps_per_second", "memory_mib", "parameters")


class FailedRunError(UsageError):
    """A run ended without a score, because of what was trained."""


@dataclass(frozen=True)
class Outcome:
    """Numbers of a finished run."""

    scores: dict[str, float]
    """By the metrics' keys."""
    curves: dict[str, dict[float, float]]
    """By the curves' tags, from steps to values."""
    cost: dict[str, float]
    """Those of ``COSTS`` that are known: of a run in a batch its share, but for the memory, which
    all runs of the process have together."""
    diagnostics: dict[str, float]
    """By tags: their last values, each the mean over layers."""
    plain_parts: tuple[str, ...]
    """Names of the layers that the norm was not applied to."""


def read_outcome(task: Task, result: Mapping[str, Any]) -> Outcome:
    """Return the numbers of a run from what its runner left in ``result.json``.

    Raises:
        FailedRunError: The run failed, for the reason that the message has, or has a score that is
            no finite number.
        UsageError: The result is no result.
    """
    status = result.get("status")
    if status == "failed":
        raise FailedRunError(printable(result.get("reason") or "failed, and says no reason", 500))
    metrics = (task.metric, *task.also)
    for score in (result.get(metric.key, 0.0) for metric in metrics):
        if score is None or (isinstance(score, float) and not math.isfinite(score)):
            raise FailedRunError(f"its score is {score}")
    kinds = (ValueError, TypeError, LookupError, ArithmeticError)
    with as_usage_error(f"{RESULT} is damaged", *kinds):
        if status != "finished":
            raise ValueError(f"status is {status!r}")
        curve, diagnostics = (dict(result.get(word, {})) for word in ("curve", "diagnostics"))
        cost = {key: _number(key, result[key]) for key in COSTS if result.get(key) is not None}
        if "wall_time" in cost:
            cost["wall_time"] /= result.get("batch_members", 1)
        return Outcome(
            scores={m.key: _number(m.key, result[m.key]) for m in metrics},
            curves={m.curve: _curve(m.curve, curve) for m in metrics if m.curve in curve},
            cost=cost,
            diagnostics={printable(tag): _number(tag, last) for tag, last in diagnostics.items()},
            plain_parts=tuple(map(printable, result.get("plain_parts", ()))),
        )


def _number(name: str, value: Any) -> float:
    if not is_real(value) or not math.isfinite(value):
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
    retried: dict[int, list[str]] = field(default_factory=dict)
    """Why each of these was tried more than once."""
    missing: dict[int, str] = field(default_factory=dict)
    """Why nothing is known of each of these; it counts as if it had not been planned."""
    folders: dict[int, PurePath] = field(default_factory=dict)
    """Of all runs, below the study's."""

    def scores(self, key: str) -> dict[int, float]:
        """Return the scores of the finished runs."""
        return {seed: outcome.scores[key] for seed, outcome in self.outcomes.items()}

    def cost(self, key: str) -> float | None:
        """Return the median over runs of one of ``COSTS``; None where it is not known."""
        known = [o.cost[key] for o in self.outcomes.values() if key in o.cost]
        return float(np.median(known)) if known else None

    @property
    def seconds(self) -> float | None:
        """The time that training took, without evaluations: steps over steps a second."""
        steps, speed = self.cost("steps"), self.cost("steps_per_second")
        return steps / speed if steps and speed else None

    def curve(self, tag: str) -> tuple[Floats, Floats] | None:
        """Return the steps that all finished runs logged and the values of the curve at them.

        Returns:
            Shapes ``(n_steps,)`` and ``(n_steps, n_runs)``; None where no step is common to all.
        """
        curves = [o.curves[tag] for o in self.outcomes.values() if o.curves.get(tag)]
        steps = sorted(set.intersection(*map(set, curves))) if curves else []
        if not steps:
            return None
        return np.array(steps), np.array([[curve[step] for curve in curves] for step in steps])


def read_runs(root: Path, trials: Iterable[Trial]) -> Runs:
    """Read the results of trials of one arm at one point, below the study's folder.

    A run whose last attempt crashed counts as failed.
    """
    runs = Runs()
    for trial in trials:
        runs.folders[trial.seed] = trial.folder
        try:
            folder = root / trial.folder
            reasons = [printable(reason, 500) for reason in crashes(folder)]
            if not is_finished(folder) and reasons:
                runs.failed[trial.seed] = reasons.pop()
            if reasons:
                runs.retried[trial.seed] = reasons
            if is_finished(folder):
                runs.outcomes[trial.seed] = read_outcome(trial.task, read_json(folder / RESULT))
            elif trial.seed not in runs.failed:
                runs.missing[trial.seed] = "unfinished"
        except FailedRunError as error:
            runs.failed[trial.seed] = str(error)
        except UsageError as error:
            runs.missing[trial.seed] = printable(error, 500)
    return runs


@dataclass(frozen=True)
class Scale:
    """How the runs of a task count: the finished ones by their scores, the failed ones as worst.

    In ranks a failed run is below every finished one. In means it has the floor of the task, or
    the worst score of all its runs if that is worse. Without a floor that score is only a limit,
    and the mean is open on this side.
    """

    task: Task
    low: float
    """The lowest score of all runs, and of what the task says of its scores; NaN without any."""
    high: float

    @classmethod
    def of(cls, task: Task, read: Iterable[Runs]) -> "Scale":
        """Return the scale of all runs of a task."""
        known = [value for value in (task.floor, task.solved) if value is not None]
        known += [score for runs in read for score in runs.scores(task.metric.key).values()]
        return cls(task, min(known, default=math.nan), max(known, default=math.nan))

    @property
    def sign(self) -> int:
        """1 where higher is better, else -1."""
        return 1 if self.task.metric.higher_is_better else -1

    def counted(self, runs: Runs) -> dict[int, float]:
        """Return the score of each run by seed, of failed ones too, if there is one for them."""
        worst = self.low if self.sign == 1 else self.high
        failed = {} if math.isnan(worst) else dict.fromkeys(runs.failed, worst)
        return runs.scores(self.task.metric.key) | failed

    def sample(self, runs: Runs) -> Sample | None:
        """Return the scores; None where there is none."""
        values = [*self.counted(runs).values()]
        return self._sample(values, (self.low, self.high), self.limits(), runs, Runs())

    def differences(self, runs: Runs, others: Runs) -> Sample | None:
        """Return the scores minus those of others at the same seed; None without a pair."""
        ours, theirs = self.counted(runs), self.counted(others)
        values = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs)]
        reach = self.high - self.low
        low, high = self.limits()
        return self._sample(values, (-reach, reach), (low - high, high - low), runs, others)

    def better(self, runs: Runs, others: Runs) -> Estimate | None:
        """Return the per cent of pairs in which the run is better than the other one."""
        ours, theirs = self._ranks(runs), self._ranks(others)
        pairs = [(ours[seed], theirs[seed]) for seed in ours.keys() & theirs]
        if not pairs:
            return None
        wins = sum((a > b) + 0.5 * (a == b) for a, b in pairs)
        return _per_cent(wins, len(pairs))

    def solved(self, runs: Runs) -> Estimate | None:
        """Return the per cent of runs that solved the task; None where none can."""
        if self.task.solved is None or not (ranks := self._ranks(runs)):
            return None
        limit = self.sign * self.task.solved
        return _per_cent(sum(rank >= limit for rank in ranks.values()), len(ranks))

    def _ranks(self, runs: Runs) -> dict[int, float]:
        scores = runs.scores(self.task.metric.key).items()
        ranks = {seed: self.sign * score for seed, score in scores}
        return ranks | dict.fromkeys(runs.failed, -math.inf)

    def limits(self) -> Range:
        """Return the lowest and the highest mean that there can be."""
        return within(self.task, np.array([self.low, self.high]))

    def _sample(
        self, values: Sequence[float], bounds: Range, limits: Range, worse: Runs, better: Runs
    ) -> Sample | None:
        """Return a sample whose mean is open where those runs may be worse, and these better."""
        ends = [bool(runs.failed) and self.task.floor is None for runs in (worse, better)]
        below, above = ends[:: self.sign]
        return Sample(np.array(values), bounds, below, above, limits) if values else None


def within(task: Task, values: Floats) -> Range:
    """Return the limits of a task, or of values of its runs where they are beyond them."""
    low, high = task.limits or ANYWHERE
    return min(low, values.min()), max(high, values.max())


def _per_cent(successes: float, n: int) -> Estimate:
    low, high = clopper_pearson(successes, n)
    return Estimate(100 * successes / n, 100 * low, 100 * high)
