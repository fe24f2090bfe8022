"""Settings that are chosen for each arm on seeds of their own, before the arms are compared."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from wnrl.errors import UsageError, is_real
from wnrl.runs import is_finished
from wnrl.runs.folder import crashes
from wnrl.study.execute import check_trials
from wnrl.study.outcomes import Runs, Scale, read_runs
from wnrl.study.plan import Cell, Grid, Point, Study, Trial, grouped, points
from wnrl.study.stats import Floats

Train = Callable[[Sequence[Trial]], object]
Check = Callable[[Iterable[Trial], Path], None]


@dataclass(frozen=True)
class Choice:
    """The settings of one arm on one task at one point of the axes."""

    settings: Point
    """Those with the best mean; of several that are equally good the one in their middle."""
    grid: Grid
    """All values that were tried."""
    scores: Floats = field(repr=False)
    """``(n_settings, n_tuning_seeds)``, of all that was tried; higher is better."""

    @property
    def edges(self) -> tuple[str, ...]:
        """Names of the numbers of which the first or the last value is the best."""
        ends = {name: (tried[0], tried[-1]) for name, tried in self.grid.items() if len(tried) > 1}
        numbers = {name: value for name, value in self.settings if is_real(value)}
        return tuple(name for name, value in numbers.items() if value in ends.get(name, ()))

    def __str__(self) -> str:
        """Say what was chosen, and what of it stands at the edge of what was tried."""
        edge = dict.fromkeys(self.edges, ", the edge of its grid")
        return "; ".join(f"{name}={value}{edge.get(name, '')}" for name, value in self.settings)

    def means(self, name: str) -> list[float]:
        """Return, for each value of one setting, the best mean over tuning seeds with it."""
        means = self.scores.mean(-1).reshape(*map(len, self.grid.values()))
        return means.max(axis=tuple(k for k, axis in enumerate(self.grid) if axis != name)).tolist()

    def scores_at(self, grid: Grid) -> Floats:
        """Return the scores at the values of ``grid``, ``(*values, n_tuning_seeds)``.

        A setting that it does not name is left as it was chosen.
        """
        tried = [dict(point) for point in points(self.grid)]
        asked = [{**dict(self.settings), **dict(point)} for point in points(grid)]
        rows = [tried.index(settings) for settings in asked]
        return self.scores[rows].reshape(*map(len, grid.values()), -1)


Choices = Mapping[Cell, Choice]


def conduct(
    study: Study, root: Path, train: Train, check: Check = check_trials
) -> tuple[list[Trial], dict[Cell, Choice], list[Trial]]:
    """Do a study: try the grid, widen it once where its edge was best, choose, and compare.

    A run of the grid that crashed is tried again by a later call, until a run of the comparison has
    ended with what was chosen: that stands.

    Args:
        study: What to do.
        root: Its folder.
        train: Trains those of the trials that are not finished and that this process is to train.
        check: Raises UsageError where a trial with a value beyond the grid's edge cannot be done.

    Returns:
        The runs that are compared, what was chosen for them, and runs that have not ended, which
        others train. Where those are needed for the choice, nothing is compared.
    """
    choices: dict[Cell, Choice] = {}
    widened, trials = False, study.tuning_trials()
    while trials:
        train(_undecided(study, root, trials))
        if left := not_ended(root, trials):
            return [], {}, left
        choices = choose(root, trials)
        grids = {} if widened else _widened(study, choices, root, check)
        widened, trials = True, study.tuning_trials(grids) if grids else []
    trials = study.trials({cell: choice.settings for cell, choice in choices.items()})
    train(trials)
    return trials, choices, not_ended(root, trials)


def _undecided(study: Study, root: Path, trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials but for those that crashed where the study has compared what was chosen."""
    compared = set()
    for cell, trial in {trial.cell: trial for trial in trials}.items():
        n_chosen, folder = len(trial.choice), root / trial.folder
        for seed in study.seeds:
            made = folder.parents[n_chosen].glob("*/" * n_chosen + f"seed{seed}")
            compared |= {cell for path in made if is_finished(path)}
    return [t for t in trials if t.cell not in compared or not crashes(root / t.folder)]


def not_ended(root: Path, trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials whose folders have neither a result nor a reason why there is none."""
    folders = {trial: root / trial.folder for trial in trials}
    return [trial for trial, path in folders.items() if not is_finished(path) and not crashes(path)]


def choose(root: Path, trials: Sequence[Trial]) -> dict[Cell, Choice]:
    """Return what is best on tuning seeds; a run without a score counts as the worst of its task.

    Args:
        root: The study's folder.
        trials: What was tried.
    """
    groups = grouped(((trial.cell, trial.choice), trial) for trial in trials)
    read = {tried: read_runs(root, group) for tried, group in groups.items()}
    of_task = grouped((cell[0], runs) for (cell, _), runs in read.items())
    scales = {task: Scale.of(task, runs) for task, runs in of_task.items()}
    of_cell = grouped((cell, (choice, runs)) for (cell, choice), runs in read.items())
    return {cell: _best(dict(tried), scales[cell[0]]) for cell, tried in of_cell.items()}


def _best(tried: Mapping[Point, Runs], scale: Scale) -> Choice:
    values = zip(*tried, strict=True)
    grid = {pairs[0][0]: [*dict.fromkeys(value for _, value in pairs)] for pairs in values}
    scores = np.array([_scores(runs, scale) for runs in tried.values()])
    means = scores.mean(-1)
    best = np.flatnonzero(means == means.max())
    return Choice(list(tried)[best[len(best) // 2]], grid, scores)


def _scores(runs: Runs, scale: Scale) -> list[float]:
    """Return a score for each seed, as if each run without one had failed."""
    failed = {**runs.failed, **runs.missing}
    counted = scale.counted(replace(runs, failed=failed))
    return [scale.sign * counted.get(seed, 0.0) for seed in sorted({*runs.outcomes, *failed})]


def _widened(study: Study, choices: Choices, root: Path, check: Check) -> dict[Cell, Grid]:
    """Return the grids that get one more value, beyond the edge that was best.

    A value that the runner refuses, or a setting that is not a number above zero, widens nothing.
    """
    grids: dict[Cell, Grid] = {}
    for cell, choice in choices.items():
        for name in choice.edges:
            before = grids.get(cell, choice.grid)
            grid = {**before, name: _one_more(before[name], dict(choice.settings)[name])}
            new = [
                trial
                for trial in study.tuning_trials({cell: grid})
                if trial.cell == cell and dict(trial.choice)[name] not in before[name]
            ]
            with suppress(UsageError):
                check(new[:1], root)
                if new:
                    grids[cell] = grid
    return grids


def _one_more(values: Sequence[Any], best: Any) -> list[Any]:
    """Return the values with one more beyond the best, which is at an end, by the same factor."""
    rising = [*values] if best == values[-1] else [*values][::-1]
    *_, neighbour, end = rising
    if all(is_real(value) and value > 0 for value in rising):
        beyond = float(f"{end * end / neighbour:.3g}")
        whole = isinstance(end, int) and isinstance(neighbour, int)
        beyond = max(1, round(beyond)) if whole else beyond
        if beyond not in rising:
            rising.append(beyond)
    return rising if best == values[-1] else rising[::-1]
