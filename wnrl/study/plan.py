"""What a comparison consists of: tasks, norms and seeds, and from them one job a run."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

from wnrl import tags
from wnrl.errors import UsageError, check_choice, check_positive
from wnrl.norms import NORMS


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


RETURN = Metric(
    key="final_return",
    label="return",
    curve=tags.EVAL_RETURN,
    curve_label="evaluation return",
    steps="environment steps",
    higher_is_better=True,
)
BEST_RETURN = Metric(
    key="best_return",
    label="return of the best checkpoint",
    curve=tags.EVAL_RETURN,
    curve_label="evaluation return",
    steps="environment steps",
    higher_is_better=True,
)
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
    """One thing to learn: an environment with an algorithm, or a data set with a model."""

    name: str
    """The environment's id or the data set's name; also the folder."""
    algo: str
    """The algorithm or the model."""
    program: str
    """Which program trains it, a key of the table that the caller runs jobs with."""
    metric: Metric
    norms: tuple[str, ...]
    """The norms that this task compares."""
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """What the program gets besides norm, seed, device and folder."""
    also: tuple[Metric, ...] = ()
    """Further numbers of the same runs, each with a table of its own behind the first one's."""
    variant: str = ""
    """What tells it from another task with the same name and algorithm."""

    @property
    def label(self) -> str:
        """The algorithm or the model, with the variant; the folder below the name's."""
        return f"{self.algo}-{self.variant}" if self.variant else self.algo

    @property
    def title(self) -> str:
        """How tables and figures call it."""
        return f"{self.label} · {self.name}"

    @property
    def folder(self) -> PurePath:
        """Where its runs go, below the study's folder."""
        return PurePath(self.name, self.label)

    def views(self) -> "list[Task]":
        """The task, and what it looks like by each of the further numbers."""
        return [self, *(replace(self, metric=metric, also=()) for metric in self.also)]


@dataclass(frozen=True)
class Job:
    """One run: a task with a norm and a seed."""

    task: Task
    norm: str
    seed: int

    @property
    def folder(self) -> PurePath:
        """Where the run goes, below the study's folder."""
        return self.task.folder / self.norm / f"seed{self.seed}"

    @property
    def title(self) -> str:
        """How progress lines call it."""
        return f"{self.task.title} · {self.norm} · seed {self.seed}"


def plan(tasks: Iterable[Task], n_seeds: int, norms: Sequence[str] = ()) -> list[Job]:
    """The jobs of a study, in the order of the tasks, every seed of all norms before the next.

    A study that is stopped half way has thus, as far as it came, the same seeds of every norm.

    Args:
        tasks: the costly ones first keep all processes busy until the end.
        n_seeds: runs a norm, seeds 0, 1, ….
        norms: keep only these; empty keeps what each task compares.

    Raises:
        UsageError: a norm is unknown, compared by no task, or ``n_seeds`` is not above zero.
    """
    check_positive(seeds=n_seeds)
    tasks = list(tasks)
    for norm in norms:
        check_choice("norm", norm, NORMS)
        if not any(norm in task.norms for task in tasks):
            raise UsageError(f"norm {norm!r} is compared by no task of this study")
    return [
        Job(task, norm, seed)
        for task in tasks
        for seed in range(n_seeds)
        for norm in task.norms
        if not norms or norm in norms
    ]
