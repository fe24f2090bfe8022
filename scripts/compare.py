"""Compares normalisations on several tasks, in return and in likelihood.

    python scripts/compare.py quick

A study is a table of tasks; every norm of a task is trained with the same seeds, all cores are
used, and a run that is finished is never done again: the same command goes on where a stopped one
was. The study's folder has a folder for each run, ``table.csv``, ``report.html`` and, for each
task, its learning curves as ``curves.svg``.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts._interrupt import leave_at_ctrl_c

if __name__ == "__main__":
    leave_at_ctrl_c()  # until _cli.run catches it

import os
import time
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any
from urllib.parse import quote

import tyro
from rich.console import Console
from rich.table import Table

import envs
from agents import AGENTS
from scripts import _cli, train_agent, train_vae
from scripts._progress import show_progress
from wnrl.errors import check_choice, check_positive
from wnrl.rl.hardware import choose_device, is_small
from wnrl.runs import (
    CONFIG,
    check_run_folder,
    is_finished,
    locked,
    plain_json,
    resolve_device,
    write_json,
    write_text,
)
from wnrl.study.plan import BEST_RETURN, NLL, RETURN, Job, Task, plan
from wnrl.study.pool import Progress, run_jobs
from wnrl.study.summary import COLUMNS, Row, cells, summarise, to_csv

FEED_FORWARD = ("none", "weight", "batch", "layer")

# The costly tasks first, so that no core is idle at the end.
STUDIES: dict[str, tuple[Task, ...]] = {
    "quick": (
        Task("CartPoleNoVel-v1", "recurrent_ppo", "agent", RETURN, ("none", "weight"),
             {"total_timesteps": 20_480}),
        Task("CartPole-v1", "ppo", "agent", RETURN, FEED_FORWARD, {"total_timesteps": 20_480}),
        Task("digits", "mlp", "vae", NLL, FEED_FORWARD, {"epochs": 100}),
    ),
    # What each algorithm learns with its preset: hours on two cores.
    "agents": (
        Task("Pendulum-v1", "crossq", "agent", RETURN,
             ("none", "weight", "batch_renorm", "projected"), {"total_timesteps": 10_000}),
        Task("Pendulum-v1", "crossq", "agent", RETURN, ("none", "weight", "projected"),
             {"total_timesteps": 10_000, "tau": 0.005}, variant="target"),
        Task("Pendulum-v1", "sac", "agent", RETURN, FEED_FORWARD, {"total_timesteps": 10_000}),
        Task("CartPole-v1", "dqn", "agent", RETURN, ("none", "weight", "layer"),
             {"total_timesteps": 50_000}, also=(BEST_RETURN,)),
        Task("CartPoleNoVel-v1", "recurrent_ppo", "agent", RETURN, ("none", "weight", "layer"),
             {"total_timesteps": 100_000}),
        Task("CartPoleNoVel-v1", "ppo", "agent", RETURN, ("none", "weight"),
             {"total_timesteps": 100_000}),
        Task("CartPole-v1", "ppo", "agent", RETURN, FEED_FORWARD, {"total_timesteps": 100_000}),
    ),
    # Likelihoods of real images: hours on two cores, minutes for `--algos mlp` and one seed.
    "mnist": (
        Task("mnist", "conv", "vae", NLL, ("none", "weight"), {"epochs": 5}),
        Task("mnist", "draw", "vae", NLL, ("none", "weight"), {"epochs": 10}),
        Task("mnist", "mlp", "vae", NLL, FEED_FORWARD, {"epochs": 20}),
        Task("mnist", "mlp", "vae", NLL, ("weight",), {"epochs": 20, "data_init": 500},
             variant="data_init"),
        Task("mnist", "mlp", "vae", NLL, ("weight",), {"epochs": 20, "norm_heads": False},
             variant="plain_heads"),
        Task("mnist-static", "mlp", "vae", NLL, ("none", "weight"), {"epochs": 20}),
    ),
}  # fmt: skip


# From a task's program to the setting that says how long it trains.
STEPS = {"agent": "total_timesteps", "vae": "epochs"}


@dataclass(frozen=True)
class Args:
    """Compares normalisations; a stopped study goes on with the same command."""

    study: Annotated[str, tyro.conf.Positional]
    """Which study: quick (minutes), agents or mnist (hours)."""
    run_dir: Path | None = None
    """The study's folder; runs/<study> if not given."""
    seeds: int = 3
    """Runs of each norm on each task; a larger number later adds runs."""
    norms: tuple[str, ...] = ()
    """Only these norms."""
    algos: tuple[str, ...] = ()
    """Only tasks with these algorithms or models, or these variants of them (crossq-target)."""
    device: str = "auto"
    """auto (a GPU where there is one and the network is not small), cpu, cuda or cuda:<k>."""
    workers: int | None = None
    """Processes that train at a time; one a core if not given."""
    budget: float = 1.0
    """Share of each task's steps; for a first look, or more patience."""


def main(args: Args) -> int:
    """Plans, runs, summarises and reports; 130 if interrupted, 1 if a run left no result."""
    check_choice("study", args.study, STUDIES)
    workers = _cores() if args.workers is None else args.workers
    check_positive(workers=workers, budget=args.budget)
    tasks = [_scaled(task, args.budget) for task in _chosen(args.study, args.algos)]
    jobs = plan(tasks, args.seeds, args.norms)
    device = str(resolve_device(args.device))
    root = (args.run_dir or Path("runs") / args.study).absolute()
    config = {"study": args.study, "budget": args.budget, "device": device}
    check_run_folder(root, config)
    check_runs(jobs, root, args.device)
    with locked(root):
        check_run_folder(root, config)  # another process may have begun a study meanwhile
        write_json(root / CONFIG, config)
        print(root, flush=True)
        started = time.monotonic()
        try:
            crashed = _train(jobs, root, args.device, workers)
        except KeyboardInterrupt:
            print("stopped; the same command goes on from here", file=sys.stderr)
            return 130
        notes = {
            "command": " ".join(["python", *sys.argv]),
            "device": device if device in ("cpu", args.device) else f"{device}; small agents: cpu",
            "this call": f"{time.monotonic() - started:.0f} s with {workers} processes",
        }
        _publish(root, args.study, summarise(root, jobs, crashed), jobs, notes)
    return 1 if crashed else 0


def _train(jobs: list[Job], root: Path, device: str, workers: int) -> dict[Job, str]:
    """Trains what has no result yet; returns the reason for each job that still has none."""
    waiting = [job for job in jobs if not is_finished(root / job.folder)]
    target = partial(run_job, root=root, device=device)
    with closing(run_jobs(waiting, target, workers=workers, log_dir=root)) as events:
        return show_progress(events, total=len(jobs), done=len(jobs) - len(waiting))


def run_job(job: Job, progress: Progress, *, root: Path, device: str) -> dict[str, Any]:
    """Trains one job in its folder, or reads its result; runs in a worker process."""
    args = arguments(job, root, device)
    if isinstance(args, train_vae.Args):
        return train_vae.train(args, progress)
    return train_agent.train(args, progress)


def arguments(job: Job, root: Path, device: str) -> train_agent.Args[Any] | train_vae.Args:
    """The flags with which a job's program would do the same run alone.

    Args:
        job: what to train.
        root: the study's folder.
        device: as the study was asked for: ``auto`` is chosen by the network.
    """
    task, folder = job.task, root / job.folder
    common: dict[str, Any] = {"norm": job.norm, "seed": job.seed}
    if task.program == "agent":
        config = replace(AGENTS[task.algo].preset(task.name), **task.settings)
        common["device"] = _device(task.name, config, device)
        # one thread, as many runs train side by side; what was stopped goes on
        common |= {"threads": 1, "resume": True, "keep_checkpoint": False}
        return train_agent.Args.of(task.algo, task.name, config=config, run_dir=folder, **common)
    common |= {"device": str(resolve_device(device)), "resume": True, "keep_checkpoint": False}
    return train_vae.Args(task.algo, task.name, run_dir=folder, **common, **task.settings)


def _device(env_id: str, config: Any, asked: str) -> str:
    """Where an agent trains; with no GPU there is no environment to look at."""
    device = str(resolve_device(asked))
    if asked != "auto" or device == "cpu":
        return device
    with closing(envs.factory(env_id)()) as env:
        small = is_small(env.observation_space, config.policy_arguments())
    return choose_device(asked, small)[0]


def check_runs(jobs: list[Job], root: Path, device: str) -> None:
    """Raises UsageError if a folder holds a run that differs from its job: no table mixes them."""
    for job in jobs:
        folder = root / job.folder
        if (folder / CONFIG).is_file():
            check_run_folder(folder, plain_json(arguments(job, root, device).as_config()))


def _chosen(study: str, algos: tuple[str, ...]) -> list[Task]:
    """The tasks of a study, or those of them whose algorithm or label is one of ``algos``."""
    tasks = STUDIES[study]
    for algo in algos:
        check_choice("algos", algo, dict.fromkeys(w for t in tasks for w in (t.algo, t.label)))
    return [task for task in tasks if not algos or {task.algo, task.label} & {*algos}]


def _scaled(task: Task, budget: float) -> Task:
    """The task with its share of the steps."""
    key = STEPS[task.program]
    steps = max(1, round(task.settings[key] * budget))
    return replace(task, settings={**task.settings, key: steps})


def _publish(
    root: Path, study: str, rows: list[Row], jobs: list[Job], notes: dict[str, Any]
) -> None:
    """Writes the report and the CSV, and prints the table and where everything is."""
    from wnrl.study.figures import learning_curves
    from wnrl.study.report import write_report

    write_text(root / "table.csv", to_csv(rows))
    for task in dict.fromkeys(job.task for job in jobs):
        own = [row for row in rows if row.task == task]
        write_text(root / task.folder / "curves.svg", learning_curves(own))
    write_report(root / "report.html", f"wnrl study: {study}", rows, jobs, notes)
    # A pipe has no width to wrap at; a narrow terminal wraps lines rather than loses digits.
    console = Console()
    console = Console(width=max(console.width, 100))
    for task in dict.fromkeys(row.task for row in rows):
        console.print(as_table(task, [row for row in rows if row.task == task]))
        console.print()
    for row in rows:
        for failure in row.failures:
            print(f"no score: {row.task.title} · {row.norm} · {failure}")
    print(f"table:   {root / 'table.csv'}")
    print(f"logs:    tensorboard --logdir {root}")
    print(f"         one colour a norm: http://localhost:6006/{one_colour_a_norm(rows)}")
    print(f"report:  {root / 'report.html'}")


def as_table(task: Task, rows: list[Row]) -> Table:
    """A table of one task that fits a terminal of 80 columns."""
    better = "higher" if task.metric.higher_is_better else "lower"
    title = f"{task.title}: {task.metric.label}, {better} is better"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    for k, column in enumerate(COLUMNS):
        table.add_column(column, justify="right" if k else "left", no_wrap=True)
    for row in rows:
        table.add_row(*cells(row))
    return table


def one_colour_a_norm(rows: list[Row]) -> str:
    """The end of a TensorBoard address whose runs are coloured by norm, whatever task or seed."""
    pattern = f"/({'|'.join(dict.fromkeys(row.norm for row in rows))})/seed"
    return f"?runColorGroup={quote('regex:' + pattern, safe='')}#timeseries"


def _cores() -> int:
    """The cores that this process may use, which in a container can be fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    _cli.run(main, Args, description=__doc__)
