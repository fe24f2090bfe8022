"""The folder of a study: its runs, its table and its report."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from wnrl.errors import UsageError
from wnrl.runs import (
    CONFIG,
    check_run_folder,
    locked,
    read_json,
    resolve_device,
    write_json,
    write_text,
)
from wnrl.study.execute import check_trials
from wnrl.study.figures import learning_curves
from wnrl.study.plan import Study, Trial
from wnrl.study.report import write_report
from wnrl.study.shards import Shard
from wnrl.study.summary import Row
from wnrl.study.table import to_csv

TABLE, REPORT, DURATION = "table.csv", "report.html", "duration.json"
PUBLISHING = 600.0  # seconds that another shard may take to write its report


@contextmanager
def open_study(root: Path, study: Study, trials: Sequence[Trial], shard: Shard) -> Iterator[None]:
    """Hold a shard of a study's folder for this process, making the folder if it is not there.

    Raises:
        UsageError: A trial cannot be done, or the folder is in use, cannot be written, or holds
            something else. Nothing in it has changed then.
    """
    device = str(resolve_device(study.settings.get("device", "auto")))
    config = {"study": study.name, "budget": study.budget, "device": device}
    if (root / CONFIG).is_file():
        if "study" not in read_json(root / CONFIG):
            raise UsageError(f"run_dir {root} holds a single run, no study; choose another folder")
        check_run_folder(root, config)
    check_trials(trials, root)
    check_run_folder(root, config)
    with ExitStack() as stack:
        with locked(root, seconds=PUBLISHING):
            check_run_folder(root, config)  # another process may have begun a study meanwhile
            write_json(root / CONFIG, config)
            stack.enter_context(shard.held(root))
        yield


def add_duration(root: Path, seconds: float) -> float:
    """Add the time of a call that trained to that of the earlier ones, and return the sum."""
    path = root / DURATION
    with locked(root, seconds=PUBLISHING):
        with suppress(UsageError, LookupError, TypeError):  # it is damaged; the runs are not
            seconds += read_json(path)["seconds"] if path.is_file() else 0.0
        write_json(path, {"seconds": seconds})
    return seconds


def publish(
    root: Path, study: Study, trials: Sequence[Trial], rows: Sequence[Row], notes: Mapping[str, Any]
) -> None:
    """Write the table, the learning curves of each task, and the report."""
    with locked(root, seconds=PUBLISHING):
        write_text(root / TABLE, to_csv(rows))
        for task in dict.fromkeys(trial.task for trial in trials):
            (root / task.folder).mkdir(parents=True, exist_ok=True)  # where no run made it
            of_task = [row for row in rows if row.task == task]
            write_text(root / task.folder / "curves.svg", learning_curves(of_task))
        write_report(root / REPORT, study, rows, trials, notes)
