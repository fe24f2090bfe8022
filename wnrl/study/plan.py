"""Values of a study: tasks, arms, seeds and axes, and from them one trial a run."""

import itertools
import json
import math
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from types import MappingProxyType
from typing import Annotated, Any

from wnrl import tags
from wnrl.errors import UsageError, check_choice, check_from_zero
from wnrl.limits import Positive, Share, limit
from wnrl.norms import NORMS

DASHES = ("-", "--", "-.", ":")
# Settings in which the runs of one batch may differ.
MEMBER_SCALARS = ("learning_rate", "clip_range", "ent_coef", "gamma", "gae_lambda", "beta")
Finite = Annotated[float, limit(math.isfinite, "finite")]
Point = tuple[tuple[str, Any], ...]
"""Names of settings and their values."""
Grid = Mapping[str, Sequence[Any]]
NOTHING: Mapping[Any, Any] = MappingProxyType({})
EVERY_RUN: Mapping[str, Any] = {"device": "auto", "threads": 1}  # many runs train side by side


@dataclass(frozen=True)
class Metric:
    """The number that runs of a task are compared by."""

    key: str
    """Where it stands in ``result.json``."""
    label: str
    """How tables and axes call it, with its unit."""
    curve: str
    """The tag of its learning curve in ``result.json``."""
    curve_label: str
    """How an axis calls that curve."""
    steps: str
    """What a step on the x axis is."""
    higher_is_better: bool


# The mean over the curve's last tenth: the last network alone is a draw of lots.
RETURN = Metric(
    key="window_return",
    label="return",
    curve=tags.EVAL_RETURN,
    curve_label="evaluation return",
    steps="environment steps",
    higher_is_better=True,
)
BEST_RETURN = replace(RETURN, key="best_return", label="return of the best checkpoint")
NLL = Metric(
    key="nll",
    label="NLL in nats",
    curve=tags.VAE_VALID_ELBO,
    curve_label="validation ELBO in nats",
    steps="gradient steps",
    higher_is_better=False,
)


@dataclass(frozen=True)
class Task:
    """One thing to learn: an environment with an algorithm, or a data set with a model.

    Lists, as JSON has them, become tuples.

    Raises:
        UsageError: The margin is not above zero, floor and solved are not finite or solving the
            task is no better than its floor, or the limits are no two numbers in order.
    """

    name: str
    """The environment's id or the data set's name."""
    algo: str
    """The algorithm or the model."""
    runner: str
    """The importable function that trains it, as ``module:function``."""
    metric: Metric
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Settings of all its runs."""
    also: tuple[Metric, ...] = ()
    """Further numbers of the same runs, each with a table of its own behind the first one's."""
    variant: str = ""
    """What tells it from another task with the same name and algorithm."""
    arms: tuple[str, ...] = ()
    """Names of the arms that it compares; empty for all of the study."""
    length: str = "total_timesteps"
    """The setting that says how long a run is, which a study's budget scales."""
    floor: Finite | None = None
    """Score of an agent that acts at random, or of a model that knows nothing.

    A failed run counts as it, or as the worst run of the task if that is worse; without a floor it
    is worse than any number.
    """
    solved: Finite | None = None
    """Score from which on the task counts as solved."""
    limits: tuple[float, float] | None = None
    """Lowest and highest score that there can be; no interval goes beyond them."""
    margin: Positive | None = None
    """A difference too small to matter; see ``negligible``."""
    dial: tuple[str, float] | None = None
    """Name and value of the one thing that it differs by from other tasks of the study with this
    name: the report then draws scores over its values."""
    seed_share: Share = 1.0
    """Share of the study's seeds that it has, the first ones, of the tuning seeds too: less where
    runs are dear, or where few decide."""

    def __post_init__(self) -> None:
        for name in ("also", "arms", "dial", "limits"):
            value = getattr(self, name)
            object.__setattr__(self, name, value if value is None else tuple(value))
        low, high = self.limits or (0, 1)
        if not -math.inf < low < high < math.inf:
            raise UsageError(f"limits must be two numbers in order, got {self.limits}")
        if self.floor is not None and self.solved is not None:
            way = self.solved - self.floor
            if not 0 < (way if self.metric.higher_is_better else -way) < math.inf:
                told = f"solved must be better than floor {self.floor}, got {self.solved}"
                raise UsageError(told)

    @property
    def label(self) -> str:
        """Algorithm or model, with the variant; the folder below the name's."""
        return f"{self.algo}-{self.variant}" if self.variant else self.algo

    @property
    def title(self) -> str:
        """Name in tables and figures."""
        return f"{self.label} · {self.name}"

    @property
    def folder(self) -> PurePath:
        """Folder of its runs, below the study's."""
        return PurePath(as_folder(self.name), as_folder(self.label))

    @property
    def negligible(self) -> float | None:
        """A difference too small to matter, which a verdict of no difference has to exclude.

        It is the margin if that is given, else a tenth of the way from ``floor`` to ``solved``.
        """
        if self.margin is not None or self.floor is None or self.solved is None:
            return self.margin
        return abs(self.solved - self.floor) / 10

    def views(self) -> "list[Task]":
        """Return the task as seen by its metric and by each of the further numbers."""
        return [self, *(replace(self, metric=metric, also=()) for metric in self.also)]


@dataclass(frozen=True)
class Arm:
    """One of the alternatives that a study compares: a norm with its options.

    A dash of lists, as JSON has it, becomes one of tuples.

    Raises:
        UsageError: The norm is not in ``NORMS``, the name is no folder's or begins with ``_``,
            which legends leave out, or colour or dash cannot be drawn.
    """

    name: str
    """The word for it in flags, folders and tables."""
    norm: str = ""
    """A key of ``NORMS``; the arm's name if not given."""
    norm_kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Options of the norm."""
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Settings that belong to this arm, such as a data-dependent initialisation."""
    tuned: Grid = field(default_factory=dict, hash=False)
    """Settings, or options of the norm, to choose for this arm besides those of the study."""
    colour: str = ""
    """As ``#rrggbb``; the norm's if not given."""
    dash: str | tuple[float, tuple[float, ...]] = ""
    """As matplotlib takes it; the norm's if not given."""

    def __post_init__(self) -> None:
        row = NORMS[check_choice("norm", self.norm or self.name, NORMS)]
        object.__setattr__(self, "norm", self.norm or self.name)
        object.__setattr__(self, "colour", self.colour or row.colour)
        object.__setattr__(self, "dash", self.dash or row.dash)
        object.__setattr__(self, "tuned", _as_keys(self.tuned))
        if self.name != as_folder(self.name) or self.name.startswith("_"):
            told = "an arm's name becomes a folder and a label, which no _ begins"
            raise UsageError(f"{told}, got {self.name!r}")
        if not re.fullmatch("#[0-9a-fA-F]{6}", self.colour):
            raise UsageError(f"colour of {self.name} must be #rrggbb, got {self.colour!r}")
        if isinstance(self.dash, str):
            check_choice(f"dash of {self.name}", self.dash, DASHES)
        else:
            object.__setattr__(self, "dash", (self.dash[0], tuple(self.dash[1])))

    @property
    def meaning(self) -> str:
        """One line of text: the norm, and what is set for this arm."""
        return "; ".join([NORMS[self.norm].meaning, *_words({**self.norm_kwargs, **self.settings})])


@dataclass(frozen=True)
class Trial:
    """One run: a task with an arm, a seed and settings."""

    task: Task
    arm: Arm
    seed: int
    settings: Mapping[str, Any] = field(hash=False)
    """Everything else that a program would take as a flag, device and threads included."""
    norm_kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Options of the norm: the arm's, and those that the study varies or chooses."""
    point: Point = ()
    """Settings that the study varies and shows."""
    choice: Point = ()
    """Settings that the study chooses for each arm."""
    place: PurePath | None = None
    """Folder of a run that no study planned."""

    @property
    def cell(self) -> "Cell":
        """What is compared: all but the seed and what is chosen."""
        return self.task, self.arm, self.point

    @property
    def folder(self) -> PurePath:
        """Folder of the run, below the study's."""
        if self.place is not None:
            return self.place
        axes = (as_folder(word) for word in _words(dict(self.point + self.choice)))
        return self.task.folder.joinpath(self.arm.name, *axes, f"seed{self.seed}")

    @property
    def title(self) -> str:
        """Name in progress lines."""
        axes = _words(dict(self.point + self.choice))
        return " · ".join([self.task.title, self.arm.name, *axes, f"seed {self.seed}"])

    def batch_key(self) -> str:
        """Return a text that is equal for trials which one batch can train.

        Those differ in their seed and in scalars that each member of a batch may have for itself.
        """
        shared = {k: v for k, v in self.settings.items() if k not in MEMBER_SCALARS}
        key = [self.task.runner, self.task.name, self.task.algo, self.arm.norm, self.norm_kwargs]
        return json.dumps([*key, shared], sort_keys=True, default=repr)


Cell = tuple[Task, Arm, Point]


@dataclass(frozen=True)
class Study:
    """A comparison as a value: every arm on every task, at every point of the axes, by seeds.

    Settings that are ``tuned`` are chosen anew for each of these, on seeds that no run of the
    comparison has: the same grid for every arm. So an arm is not compared at another one's best.

    Raises:
        UsageError: Something in it contradicts itself, or names an arm that is not there.
    """

    name: str
    tasks: Sequence[Task]
    """The costly ones first keep all processes busy until the end."""
    arms: Sequence[Arm]
    baseline: str
    """Name of the arm that the others are compared with."""
    seeds: Sequence[int] = range(3)
    axes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Settings to vary and their values; each combination is trained with every arm and seed."""
    tuned: Grid = field(default_factory=dict)
    """Settings to choose for each arm, task and point, and their values, in order: where the first
    or the last is the best one, the grid is widened once."""
    tuning_seeds: Sequence[int] = range(1000, 1005)
    """Seeds of the runs from which is chosen."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of all runs; those of a task and of an arm go before."""
    budget: Positive = 1.0
    """Share of each task's steps."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "axes", _as_keys(self.axes))
        object.__setattr__(self, "tuned", _as_keys(self.tuned))
        if not self.name or self.name != as_folder(self.name):
            raise UsageError(f"a study's name becomes a folder, got {self.name!r}")
        names = [arm.name for arm in self.arms]
        _check_distinct("arms", names)
        _check_distinct("tasks", [str(task.folder) for task in self.tasks])
        _check_distinct("seeds", self.seeds)
        check_choice("baseline", self.baseline, names)
        for seed in self.seeds:
            check_from_zero(seeds=seed)
        grids = (self.axes, self.tuned, *(arm.tuned for arm in self.arms))
        for task in self.tasks:
            for name in task.arms:
                check_choice(f"arms of {task.title}", name, names)
            if self.budget == 1:
                continue
            if not isinstance(task.settings.get(task.length), int | float):
                raise UsageError(f"{task.title} has no {task.length} that a budget could scale")
            if any(task.length in grid for grid in grids):
                raise UsageError(f"{task.title} has its {task.length} varied: no budget scales it")
        settings = [task.settings for task in self.tasks] + [arm.settings for arm in self.arms]
        for name in {"seed", "norm"} & {*itertools.chain(self.settings, *settings, *grids)}:
            raise UsageError(f"{name} is no setting: seeds and arms of a study say it")
        for grid in grids:
            for axis, values in grid.items():
                _check_distinct(f"axis {axis}", [as_folder(str(value)) for value in values])
        for arm in self.arms:
            varied = [*self.axes, *self.tuned, *arm.tuned]
            if varied:
                _check_distinct("axes and tuned", varied)
            for axis in {*varied} & {*arm.settings, *arm.norm_kwargs}:
                raise UsageError(f"{axis} is an axis and a setting of arm {arm.name}")
        for task in self.tasks:
            if self.tuned or any(arm.tuned for arm in self._arms_of(task)):
                _check_distinct("seeds and tuning_seeds", [*self.seeds, *self.tuning_seeds])
                for seed in self.tuning_seeds:
                    check_from_zero(tuning_seeds=seed)
                seeds = _first(self.tuning_seeds, task.seed_share)
                if len(seeds) < 3:
                    told = f"tuning_seeds must be 3 or more, got {[*seeds]}"
                    raise UsageError(f"{told} for {task.title}")

    def trials(self, chosen: Mapping[Cell, Point] = NOTHING) -> list[Trial]:
        """Return the runs in the order of the tasks, every seed of all arms before the next.

        A study that is stopped half way has thus, as far as it came, the same seeds of every arm.

        Args:
            chosen: Settings that were tuned; of others the middle of the grid.
        """
        return self._trials(self.seeds, lambda cell: [chosen.get(cell) or self._middle(cell)])

    def tuning_trials(self, grids: Mapping[Cell, Grid] = NOTHING) -> list[Trial]:
        """Return the runs from which settings are chosen; none for what is not tuned.

        Args:
            grids: What is tried where it is not the grid of study and arm.
        """
        return self._trials(
            self.tuning_seeds,
            lambda cell: points(grids.get(cell, self._grid(cell))) if self._grid(cell) else [],
        )

    def _grid(self, cell: Cell) -> Grid:
        return {**self.tuned, **cell[1].tuned}

    def _middle(self, cell: Cell) -> Point:
        return tuple((name, values[len(values) // 2]) for name, values in self._grid(cell).items())

    def _trials(self, seeds: Sequence[int], choices: Callable[[Cell], list[Point]]) -> list[Trial]:
        return [
            self._trial(task, arm, point, choice, seed)
            for task in self.tasks
            for seed in _first(seeds, task.seed_share)
            for point in points(self.axes)
            for arm in self._arms_of(task)
            for choice in choices((task, arm, point))
        ]

    def _trial(self, task: Task, arm: Arm, point: Point, choice: Point, seed: int) -> Trial:
        row, varied = NORMS[arm.norm], dict(point + choice)
        options = {*row.options, *row.layer_options}
        of_norm = {name: varied.pop(name) for name in [*varied] if name in options}
        settings = {**EVERY_RUN, **self.settings, **task.settings, **arm.settings, **varied}
        if self.budget != 1:
            settings[task.length] = max(1, round(settings[task.length] * self.budget))
        norm_kwargs = {**arm.norm_kwargs, **of_norm}
        return Trial(task, arm, seed, settings, norm_kwargs, point, choice)

    def with_seeds(self, n: int) -> "Study":
        """Return the study with ``n`` seeds: the first of its own, and then those that follow."""
        beyond = max(self.seeds) + 1
        return replace(self, seeds=[*self.seeds, *range(beyond, beyond + n)][:n])

    def from_seed(self, first: int) -> "Study":
        """Return the study with all seeds moved by one amount, so that its own begin at ``first``.

        Two studies have no run in common if their first seeds are as far apart as either has seeds,
        or tuning seeds.
        """
        by = first - min(self.seeds)
        seeds, tuning = ([seed + by for seed in each] for each in (self.seeds, self.tuning_seeds))
        return replace(self, seeds=seeds, tuning_seeds=tuning)

    def only(self, arms: Sequence[str] = (), algos: Sequence[str] = ()) -> "Study":
        """Return the study with some of its arms and tasks.

        Args:
            arms: Names of arms; empty for all.
            algos: Algorithms or labels of tasks; empty for all.

        Raises:
            UsageError: A word names none, or the tasks that are left do not compare an arm.
        """
        for word in algos:
            check_choice("algos", word, dict.fromkeys(w for t in self.tasks for w in _algos(t)))
        tasks = []
        for task in self.tasks:
            if not algos or {*_algos(task)} & {*algos}:
                names = [arm.name for arm in self._arms_of(task) if not arms or arm.name in arms]
                tasks.append(replace(task, arms=tuple(names)))
        for name in arms:
            check_choice("norms", name, [arm.name for arm in self.arms])
            if not any(name in task.arms for task in tasks):
                raise UsageError(f"arm {name!r} is compared by no task of this study")
        return replace(self, tasks=[task for task in tasks if task.arms])

    def _arms_of(self, task: Task) -> list[Arm]:
        return [arm for arm in self.arms if not task.arms or arm.name in task.arms]


def points(grid: Grid) -> list[Point]:
    """Return all combinations of a grid's values; the last setting's change first."""
    return [tuple(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _first(seeds: Sequence[int], share: float) -> Sequence[int]:
    return seeds[: math.ceil(round(len(seeds) * share, 9))]  # 25 times 0.28 is above 7


def _algos(task: Task) -> tuple[str, str]:
    return task.algo, task.label


def _as_keys(grid: Grid) -> Grid:
    """Return a grid whose values can be keys: lists, as JSON has them, become tuples."""
    return {axis: [_as_key(axis, value) for value in values] for axis, values in grid.items()}


def _as_key(axis: str, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_as_key(axis, each) for each in value)
    if not isinstance(value, Hashable):
        told = f"values of axis {axis} must be numbers, words or tuples of such"
        raise UsageError(f"{told}, got {value!r}")
    return value


def _words(settings: Mapping[str, Any]) -> list[str]:
    return [f"{name}={value}" for name, value in settings.items()]


def as_folder(text: str) -> str:
    """Return a name that is one folder: no separators, no colons, no dot in front."""
    return re.sub(r"^\.|[^\w.,+=-]", "_", text) or "_"


def grouped(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, list[Any]]:
    """Return lists of what stands behind each key of some pairs, in their order."""
    groups: dict[Any, list[Any]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


def _check_distinct(name: str, values: Sequence[Any]) -> None:
    if not values:
        raise UsageError(f"{name} must have one entry or more, got none")
    for value in values:
        if list(values).count(value) > 1:
            raise UsageError(f"{name} must differ, got {value!r} twice")
