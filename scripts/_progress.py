"""A study on the terminal: what trains it, with bars or a line for each run, and its tables."""

import shlex
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TaskID, TimeElapsedColumn
from rich.table import Table

from scripts import _cli
from wnrl.errors import UsageError, printable
from wnrl.study import Task, Trial, cluster, execute, folder, outcomes, table, tensorboard
from wnrl.study.attempts import Pool
from wnrl.study.overall import overall
from wnrl.study.processes import Processes
from wnrl.study.sensitivity import sensitivities
from wnrl.study.summary import Row, by_task


def executor(kind: str, address: str | None, *where: Any) -> AbstractContextManager[Pool]:
    """Return what gives a pool that trains jobs.

    Args:
        kind: ray or processes.
        address: Of the head of a Ray cluster to join.
        *where: As ``Processes`` has it.
    """
    if kind == "ray":
        return cluster.ray_cluster(*where, address=address)
    return nullcontext(Processes(*where))


def show_progress(events: Iterable[execute.Event], total: int, done: int) -> int:
    """Follow events to their end, on stderr.

    Args:
        events: Of a study's trials.
        total: Runs of the study, or of the shard.
        done: Runs that were finished before.

    Returns:
        The number of trials that ended without a result.
    """
    console = Console(stderr=True)
    n_crashed = 0
    shape, hidden = (*Progress.get_default_columns(), TimeElapsedColumn()), not console.is_terminal
    with Progress(*shape, console=console, transient=True, disable=hidden) as bars:
        whole = bars.add_task(f"{total} runs", total=total, completed=done)
        running: dict[Trial, TaskID] = {}
        for event in events:
            if event.kind == "started":
                running[event.trial] = bars.add_task(escape(event.trial.title), total=1.0)
            elif event.kind == "progress":
                bars.update(running[event.trial], completed=event.fraction)
            else:
                done += event.kind != "lost"
                if event.trial in running:
                    bars.remove_task(running.pop(event.trial))
                line = f"[{done}/{total}] {event.trial.title}: {_outcome(event)}"
                console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
                n_crashed += event.kind == "crashed"
            parts = sum(bars.tasks[bars.task_ids.index(i)].completed for i in running.values())
            bars.update(whole, completed=done + parts)
    return n_crashed


def _outcome(event: execute.Event) -> str:
    if event.result is None:
        return f"{'tried again' if event.kind == 'lost' else 'no result'}, {event.reason}"
    metric = event.trial.task.metric
    try:
        outcome = outcomes.read_outcome(event.trial.task, event.result)
    except UsageError as error:
        return f"failed, {error}"
    speed = outcome.cost.get("steps_per_second")
    shown = "" if speed is None else f" ({speed:,.0f} steps/s)"
    return f"{metric.label} {outcome.scores[metric.key]:.2f}{shown}"


def show_tables(rows: Sequence[Row]) -> None:
    """Print a table for each task, the verdicts on it, and the runs that have no score."""
    console = Console(width=1000)  # wider than any table: a terminal may wrap, no cell is cut
    for task, of_task in by_task(rows).items():
        console.print(as_table(task, of_task))
        for row in of_task:
            if row.choice:
                print(f"{row.name} has {row.choice}")
        for row in of_task:
            if row.verdict:
                print(f"{row.name} {row.verdict.sentence}")
        print()
    for arm in overall(rows):
        print(f"0 at the floor, 1 where it is solved: {arm}")
    for sensitivity in sensitivities(rows):
        print(f"lost by settings that are best for all tasks together: {sensitivity}")
    for row in rows:
        for failure in row.failures:
            print(printable(f"no score: {row.task.title} · {row.name} · {failure}", 2000))


def show_places(root: Path, rows: Sequence[Row]) -> None:
    """Print where table, logs and report of a study are, the report last."""
    program, port = shlex.quote(_cli.as_pasted("tensorboard")), _cli.free_port()
    print(f"table:   {root / folder.TABLE}")
    print(f"logs:    {program} --logdir {shlex.quote(str(root))} --port {port}")
    print(f"         a chart a task: http://localhost:{port}/{tensorboard.view(rows)}")
    print(f"         with intervals: http://localhost:{port}/{tensorboard.BANDS}")
    if activation := _cli.activation():
        print(f"shell:   {activation}   # then python is the one with wnrl")
    print(f"report:  {root / folder.REPORT}")


def as_table(task: Task, rows: Sequence[Row]) -> Table:
    """Return a table of one task that fits a terminal of 80 columns."""
    better = "higher" if task.metric.higher_is_better else "lower"
    title = f"{task.title}: {task.metric.label}, {better} is better"
    shown = Table(title=escape(title), title_justify="left", box=None, padding=(0, 1, 0, 0))
    for k, column in enumerate(table.cells(rows[0])):
        shown.add_column(escape(column), justify="right" if k else "left", no_wrap=True)
    for row in rows:
        shown.add_row(*map(escape, table.cells(row).values()))
    return shown
