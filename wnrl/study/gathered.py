"""Findings from folders that are there, whoever made them: of studies, and of single runs."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from wnrl.errors import UsageError, check_choice
from wnrl.norms import NORMS
from wnrl.runs import CONFIG, read_config, reading
from wnrl.study.folder import STUDY, findings, read_study
from wnrl.study.plan import NLL, RETURN, Arm, Task, Trial
from wnrl.study.report import Findings
from wnrl.study.summary import summarise
from wnrl.study.tuning import conduct

KINDS = (("env_id", "algo", RETURN), ("dataset", "model", NLL))
"""Settings that name what was learned and by what, and the number to compare such runs by."""
ASIDE = {"norm", "seed", "device", "threads", "compile", "film", "extended_from"}
"""Settings that are no axis: they have a place of their own, or change no result."""


def gather(root: Path, baseline: str = "none") -> list[Findings]:
    """Return what the studies and the runs below a folder have found so far, itself included.

    Runs of no study are compared as if one had planned them: tasks are what was learned and by
    what, arms are norms, and every setting in which runs of a task differ is an axis.

    Args:
        root: The folder.
        baseline: The norm that runs of no study are compared with.

    Raises:
        UsageError: There is nothing below it, or something is damaged.
    """
    check_choice("baseline", baseline, NORMS)
    studies = sorted(path.parent for path in root.rglob(STUDY))
    folders = [path.parent for path in sorted(root.rglob(CONFIG))]
    trials = _trials(root, [f for f in folders if not {*studies} & {f, *f.parents}])
    parts = [_of_study(folder) for folder in studies]
    if trials:
        rows = summarise(root, trials, baseline)
        parts.append(Findings(root.name, baseline, root, rows, {"runs": root}))
    if not parts:
        raise UsageError(f"no run and no study in {root}")
    return parts


def _of_study(root: Path) -> Findings:
    study = read_study(root)
    trials, choices, left = conduct(study, root, lambda trials: None, _check_begun)
    part = findings(root, study, summarise(root, trials, study.baseline, choices))
    waits = f"nothing is compared yet: {len(left)} runs that settings are chosen by have not ended"
    return part if trials else replace(part, pending=waits)


def _check_begun(trials: Iterable[Trial], root: Path) -> None:
    for trial in trials:
        if not (root / trial.folder).exists():
            raise UsageError(f"{trial.title} was not tried")


def _trials(root: Path, folders: Iterable[Path]) -> list[Trial]:
    """Return a trial for each folder with the configuration of a run."""
    tasks: dict[Task, dict[Path, dict[str, Any]]] = {}
    for folder in folders:
        config = read_config(folder)
        for name, algo, metric in KINDS:
            if {name, algo, "norm", "seed"} <= config.keys():
                task = Task(str(config[name]), str(config[algo]), "", metric)
                tasks.setdefault(task, {})[folder] = {
                    key: _plain(value) for key, value in config.items() if key not in (name, algo)
                }
    return [trial for task, runs in tasks.items() for trial in _of_task(root, task, runs)]


def _of_task(root: Path, task: Task, runs: Mapping[Path, Mapping[str, Any]]) -> Sequence[Trial]:
    told = runs.values()
    names = dict.fromkeys(name for settings in told for name in settings if name not in ASIDE)
    axes = [name for name in names if len({settings.get(name) for settings in told}) > 1]
    trials: dict[Any, Trial] = {}
    for folder, settings in runs.items():
        with reading(folder / CONFIG):
            arm, seed = Arm(str(settings["norm"])), int(settings["seed"])
        point = tuple((name, settings.get(name)) for name in axes)
        trial = Trial(task, arm, seed, settings, point=point, place=folder.relative_to(root))
        other = trials.setdefault((trial.cell, trial.seed), trial)
        if other is not trial:
            both = f"{root / other.folder} and {folder}"
            raise UsageError(f"{both} hold the same run; name one of them")
    return list(trials.values())


def _plain(value: Any) -> Any:
    """Return a setting as a value that can be a key."""
    return json.dumps(value) if isinstance(value, list | dict) else value
