"""The two ends of a study's work: runners, which train one trial, and executors, which train many.

A runner is a function ``train(trial, folder, progress)`` that is named ``module:function``, so that
any process can import it, and leaves ``result.json`` in the folder; beside it in the module stands
``settings(trial)``, which returns what ``config.json`` will hold and raises UsageError for what
cannot be done. The module may have ``defaults(settings)``, which returns what settings are where
nothing is said: a folder that is older than one of them counts as having its default. One that can
train trials as one batch has ``batching(trial)``, which returns a ``Batching``, and
``train_batch(trials, folders, progress)``, too, or the name of the module that has them,
``BATCHES``. An executor takes trials to events; what the runs found lies in their folders alone.
"""

import importlib.util
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from wnrl import runs
from wnrl.arguments import shown
from wnrl.errors import UsageError, as_usage_error, check_choice, in_words, printable
from wnrl.runs.folder import as_before, check_run_folder, note_crash, plain_json
from wnrl.study.plan import Study, Trial, grouped

ENGINES = ("auto", "population", "processes")
Progress = Callable[[float], None]
Train = Callable[[Trial, Path, Progress], object]


@dataclass(frozen=True)
class Event:
    """News of a trial."""

    kind: Literal["started", "progress", "ended", "crashed", "lost"]
    """``ended`` is a run that left its result, be it finished or failed; ``crashed`` and ``lost``
    have a reason: the runner raised, its process died or was killed. What was lost is tried
    again."""
    trial: Trial
    fraction: float = 0.0
    reason: str = ""
    result: dict[str, Any] | None = None
    """What ``noted`` reads of one that ended."""


@dataclass(frozen=True)
class Job:
    """What a worker takes at a time: a trial, or several that are trained as one batch."""

    trials: tuple[Trial, ...]
    batch: bool = False
    """Train by ``train_batch``, even a single trial: others of its batch are done, or will be."""


def noted(events: Iterable[Event], root: Path) -> Iterator[Event]:
    """Pass events on with the results that lie in the folders, which say why runs left none.

    A run may have its result when the batch that it is in crashes. One whose result is damaged has
    crashed.
    """
    for event in events:
        folder = root / event.trial.folder
        finished = runs.is_finished(folder)
        if event.kind == "ended" or (event.kind == "crashed" and finished):
            try:
                event = replace(event, kind="ended", result=runs.read_json(folder / runs.RESULT))
            except UsageError as error:
                event = replace(event, kind="crashed", reason=printable(error))
        if event.kind in ("crashed", "lost") and not finished:
            with suppress(OSError):  # such as a full disk; the run is unfinished in any case
                note_crash(folder, event.reason)
        yield event


def runner(name: str) -> tuple[Train, Any]:
    """Return a runner by its name, and the module that it is in.

    Raises:
        UsageError: There is no such function, or no ``settings`` beside it.
    """
    module_name, _, function = str(name).partition(":")
    if not module_name or not function:
        raise UsageError(f"runner must be module:function, got {name!r}")
    module = imported(module_name, f"runner {name!r}")
    for word in (function, "settings"):
        if not callable(getattr(module, word, None)):
            raise UsageError(f"runner {name!r}: {module_name} has no function {word!r}")
    return getattr(module, function), module


def batching(trial: Trial) -> runs.Batching:
    """Return how the module of a trial's runner can train it together with others.

    Raises:
        UsageError: The trial cannot be done.
    """
    module = batches_of(trial)
    if not hasattr(module, "batching"):
        return runs.Batching(refusal=f"runner {trial.task.runner!r} trains one run at a time")
    with as_usage_error(trial.title, Exception, say=in_words):
        return module.batching(trial)


def batches_of(trial: Trial) -> Any:
    """Return the module that may train a trial together with others."""
    _, module = runner(trial.task.runner)
    name = getattr(module, "BATCHES", None)
    return module if name is None else imported(name, f"BATCHES of runner {trial.task.runner!r}")


def jobs(trials: Sequence[Trial], engine: str, workers: int) -> list[Job]:
    """Group trials into jobs, in the order of the first trial of each.

    A group is divided into jobs of equal size, as few as hold it: a small batch gains less. There
    are more where workers would have nothing to do.

    Args:
        trials: What is to be trained.
        engine: ``processes`` trains each trial by itself, ``population`` all of them in batches,
            and ``auto`` in batches what can be, where that was measured to be faster.
        workers: Processes that train at a time.

    Raises:
        UsageError: There is no such engine, or the population cannot train one of the trials.
    """
    if check_choice("engine", engine, ENGINES) == "processes":
        return [Job((trial,)) for trial in trials]
    groups = grouped((trial.batch_key(), trial) for trial in trials)
    batches: list[tuple[list[Trial], int]] = []  # with how many jobs each needs
    planned: list[Job] = []
    for group in groups.values():
        how = batching(group[0])
        if how.refusal and engine == "population":
            raise UsageError(f"engine population: {group[0].title}: {how.refusal}")
        if not how.refusal and (how.pays or engine == "population"):
            batches.append((group, -(-len(group) // how.members)))
        else:
            planned += [Job((trial,)) for trial in group]
    idle = workers - len(planned) - sum(n_jobs for _, n_jobs in batches)
    for group, n_jobs in batches:
        n_jobs = min(n_jobs + max(0, -(-idle // len(batches))), len(group))
        ends = [round(len(group) * k / n_jobs) for k in range(n_jobs + 1)]
        planned += [Job(tuple(group[a:b]), batch=True) for a, b in itertools.pairwise(ends)]
    first = {trial: place for place, trial in enumerate(trials)}
    return sorted(planned, key=lambda job: first[job.trials[0]])


def imported(module_name: str, what: str) -> Any:
    """Return a module by its name.

    Raises:
        UsageError: It cannot be imported; ``what`` says what it was wanted for.
    """
    if not all(map(str.isidentifier, module_name.split("."))):
        raise UsageError(f"{what} must be a module's name, such as my_lab or my_lab.norms")
    # Others' code may raise anything.
    with as_usage_error(f"{what} cannot be imported", Exception, SystemExit, say=in_words):
        return importlib.import_module(module_name)


def load_study(path: Path) -> tuple[Study, str]:
    """Return the ``STUDY`` of a file, and the name by which a worker imports the file's module.

    The file's folder is put at the end of ``sys.path``, so that runners and what registers norms
    may stand in the file or beside it.

    Raises:
        UsageError: The file is not there, cannot be imported, or holds no study.
    """
    path = path.resolve()
    if path.suffix != ".py" or not path.is_file():
        raise UsageError(f"{path} is no Python file with a STUDY")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.find_spec(path.stem) if path.stem.isidentifier() else None
    if spec is None or spec.origin != str(path):
        raise UsageError(f"{path} needs another name: {path.stem} cannot be imported or is taken")
    return study_of(path.stem), path.stem


def study_of(module_name: str) -> Study:
    """Return the ``STUDY`` of a module.

    Raises:
        UsageError: The module cannot be imported, or holds no study.
    """
    study = getattr(imported(module_name, f"study {module_name!r}"), "STUDY", None)
    if not isinstance(study, Study):
        raise UsageError(f"STUDY of {module_name} must be a wnrl.study.Study, got {shown(study)}")
    return study


def check_trials(trials: Iterable[Trial], root: Path) -> None:
    """Ask every trial's runner for its settings, and look at the folder that it would go to.

    Raises:
        UsageError: A trial cannot be done, or its folder holds a run of other settings or
            something else: no table mixes them. Nothing has been trained or written then.
    """
    for trial in trials:
        _, module = runner(trial.task.runner)
        with as_usage_error(trial.title, Exception, say=in_words):
            config = plain_json(module.settings(trial))
        folder = root / trial.folder
        if folder.exists():
            defaults: Any = getattr(module, "defaults", lambda settings: {})
            config = as_before(config, runs.read_config(folder), defaults(config))
            check_run_folder(folder, config, ("extended_from",))
