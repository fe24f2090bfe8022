"""The folder of a study: its shards, which machines have for themselves, table and report."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wnrl import runs
from wnrl.errors import UsageError, as_usage_error
from wnrl.runs.folder import check_run_folder, make_folder
from wnrl.study import execute, figures, table, tensorboard
from wnrl.study.plan import NOTHING, Arm, Metric, Study, Task, Trial
from wnrl.study.report import Findings, write_report
from wnrl.study.summary import Row, by_task, summarise
from wnrl.study.tuning import Choices

TABLE, REPORT, DURATION, STUDY = "table.csv", "report.html", "duration.json", "study.json"
PUBLISHING = 600.0  # seconds that another shard may take to write its report


@dataclass(frozen=True)
class Shard:
    """One of so many parts of a study, for machines that share its folder, such as a Slurm array.

    The only one is the whole study.
    """

    number: int = 1
    """From 1."""
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Return the shard that a flag names as ``i/n``.

        Raises:
            UsageError: There is no such part.
        """
        words = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if not words or not 1 <= int(words[1]) <= int(words[2]):
            raise UsageError(f"shard must be i/n with i from 1 to n, such as 1/4, got {text!r}")
        return cls(int(words[1]), int(words[2]))

    @property
    def name(self) -> str:
        """Name in the study's folder."""
        return f"shard{self.number}of{self.count}"

    @property
    def log(self) -> str:
        """Begin the names of logs, where there are other shards."""
        return f"{self.name}-" if self.count > 1 else ""

    def of(self, trials: Sequence[Trial]) -> list[Trial]:
        """Return the trials of this part, in their order.

        The parts have no trial in common, and together have all. Of each task, and of each of its
        settings, they have equally many runs, or one more.
        """
        by_setting = sorted(trials, key=lambda trial: str(trial.folder.parent))
        dealt = {*by_setting[self.number - 1 :: self.count]}
        return [trial for trial in trials if trial in dealt]

    @contextmanager
    def held(self, root: Path) -> Iterator[None]:
        """Hold this part of a study's folder for this process, beside others of the same division.

        Enter it with the folder locked, which keeps other divisions from being entered meanwhile.

        Raises:
            UsageError: Another process has this part, or one of another division.
        """
        for path in root.glob(".shard*of*"):
            if not path.name.endswith(f"of{self.count}"):
                with runs.locked(root, path.name):
                    pass
        with runs.locked(root, f".{self.name}"):
            yield


@contextmanager
def open_study(
    root: Path, study: Study, trials: Sequence[Trial], shard: Shard, command: str = ""
) -> Iterator[None]:
    """Hold a shard of a study's folder for this process, making the folder if it is not there.

    The study is written into it, with the commands that were given for it.

    Raises:
        UsageError: A trial cannot be done, or the folder is in use, cannot be written, or holds
            something else. Nothing in it has changed then.
    """
    device = str(runs.resolve_device(study.settings.get("device", "auto")))
    config = {"study": study.name, "budget": study.budget, "device": device}
    if (root / runs.CONFIG).is_file() and "study" not in runs.read_json(root / runs.CONFIG):
        raise UsageError(f"run_dir {root} holds a single run, no study; choose another folder")
    if root.exists():
        check_run_folder(root, config)
    execute.check_trials(trials, root)
    make_folder(root)
    with ExitStack() as stack:
        with runs.locked(root, seconds=PUBLISHING):
            check_run_folder(root, config)  # another process may have begun a study meanwhile
            runs.write_json(root / runs.CONFIG, config)
            commands = [*(runs.read_or_nothing(root / STUDY).get("commands") or ()), command]
            plain = json.loads(json.dumps(study, default=_plain))
            saved = {"study": plain, "commands": list(dict.fromkeys(commands))}
            runs.write_json(root / STUDY, saved)
            stack.enter_context(shard.held(root))
        yield


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    # What else there is are ranges, and numbers of NumPy's.
    return vars(value) if is_dataclass(value) else np.asarray(value).tolist()


def read_study(root: Path) -> Study:
    """Return the study that a folder is of.

    Raises:
        UsageError: The file is not there, damaged, of another version, or names a norm that is not
            known.
    """
    with as_usage_error(f"{root / STUDY} is damaged", TypeError, LookupError):
        saved = runs.read_json(root / STUDY)["study"]
        for task in saved["tasks"]:
            task["metric"] = Metric(**task["metric"])
            task["also"] = [Metric(**metric) for metric in task["also"]]
        tasks = [Task(**task) for task in saved["tasks"]]
        return Study(**{**saved, "tasks": tasks, "arms": [Arm(**arm) for arm in saved["arms"]]})


def add_duration(root: Path, seconds: float) -> None:
    """Add the time of a call that trained to that of the earlier ones.

    It has a lock of its own: that of the folder may be held for as long as a report takes.
    """
    with runs.locked(root, ".duration"):
        with suppress(TypeError):  # it is damaged; the runs are not
            seconds += runs.read_or_nothing(root / DURATION).get("seconds", 0.0)
        runs.write_json(root / DURATION, {"seconds": seconds})


def findings(root: Path, study: Study, rows: Sequence[Row]) -> Findings:
    """Return what a report says of a study, from what its folder holds besides the runs."""
    saved = runs.read_or_nothing(root / STUDY)
    seconds = runs.read_or_nothing(root / DURATION).get("seconds")
    notes = {
        "table": root / TABLE,
        "runs": root,
        "TensorBoard": f"tensorboard --logdir {shlex.quote(str(root))}",
        "commands": "; ".join(map(str, saved.get("commands") or ())),
        "device": runs.read_or_nothing(root / runs.CONFIG).get("device"),
        "training": f"{seconds:.0f} s in all calls" if isinstance(seconds, int | float) else None,
    }
    said = {name: note for name, note in notes.items() if note}
    return Findings(study.name, study.baseline, root, rows, said)


def publish(
    root: Path, study: Study, trials: Sequence[Trial], choices: Choices = NOTHING
) -> list[Row]:
    """Write the table, the learning curves of each task, TensorBoard's overview and the report.

    Of several shards the last one to write has read what all of them have done.

    Args:
        root: The study's folder.
        study: What it is of.
        trials: As ``summarise`` has them.
        choices: As ``summarise`` has them.

    Returns:
        The rows of the table.
    """
    with runs.locked(root, seconds=PUBLISHING):
        rows = summarise(root, trials, study.baseline, choices)
        runs.write_text(root / TABLE, table.to_csv(rows))
        looks = figures.looks_of(rows)
        for task, of_task in by_task(row for row in rows if row.confidence is not None).items():
            (root / task.folder).mkdir(parents=True, exist_ok=True)  # where no run made it
            curves = figures.learning_curves(of_task, looks)
            runs.write_text(root / task.folder / "curves.svg", curves)
        tensorboard.write_overview(root, rows)
        write_report(root / REPORT, findings(root, study, rows))
    return rows
