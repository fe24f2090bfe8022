"""Progress of a study on stderr: bars in a terminal, a line for each run elsewhere."""

from collections.abc import Iterable

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from wnrl.errors import UsageError
from wnrl.study.plan import Job
from wnrl.study.pool import Event


def show_progress(events: Iterable[Event], total: int, done: int) -> dict[Job, str]:
    """Follows ``events`` to their end.

    Args:
        events: of a study's jobs.
        total: runs of the whole study.
        done: runs that were finished before.

    Returns:
        The reason for each job that ended without a result.

    Raises:
        UsageError: a job's settings were refused; they are as wrong for the others.
    """
    console = Console(stderr=True)
    crashed: dict[Job, str] = {}
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bars:
        whole = bars.add_task(f"{total} runs", total=total, completed=done)
        running: dict[Job, TaskID] = {}
        for event in events:
            if event.kind == "refused":
                raise UsageError(f"{event.job.title}: {event.reason}")
            if event.kind == "started":
                running[event.job] = bars.add_task(event.job.title, total=1.0)
            elif event.kind == "progress":
                bars.update(running[event.job], completed=event.fraction)
            else:
                done += 1
                bars.remove_task(running.pop(event.job))
                line = f"[{done}/{total}] {event.job.title}: {_outcome(event)}"
                console.print(line, markup=False, highlight=False, soft_wrap=True)
                if event.kind == "crashed":
                    crashed[event.job] = event.reason
            parts = sum(bars.tasks[bars.task_ids.index(i)].completed for i in running.values())
            bars.update(whole, completed=done + parts)
    return crashed


def _outcome(event: Event) -> str:
    if event.result is None:
        return f"no result, {event.reason}"
    if event.result["status"] != "finished":
        return f"failed, {event.result['reason']}"
    metric = event.job.task.metric
    return (
        f"{metric.label} {event.result[metric.key]:.2f} "
        f"({event.result['steps_per_second']:,.0f} steps/s)"
    )
