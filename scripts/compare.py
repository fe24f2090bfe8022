"""Compare normalisations on several tasks, in return and in likelihood.

    python scripts/compare.py quick

A study is a file with a ``STUDY`` of tasks and arms, shipped in scripts/studies or your own:
``python scripts/compare.py my_study.py``. Every arm of a task is trained with the same seeds, all
cores are used, and a run that is finished is never done again: the same command goes on where a
stopped one was. The study's folder has a folder for each run, ``table.csv``, ``report.html`` and,
for each task, its learning curves as ``curves.svg``.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts import _cli

# From here on Ctrl-C and a package that is missing are taken care of.
# isort: split
import re
import time
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from scripts._lists import studies
from wnrl.errors import UsageError, check_choice
from wnrl.limits import Limited, Positive, Whole, some

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from wnrl.study import Study, Trial

ALL = ("all",)


@dataclass(frozen=True)
class Args(Limited):
    """Compares normalisations; a stopped study goes on with the same command."""

    study: Annotated[str, tyro.conf.Positional] = ""
    """Which study: quick (minutes), another one of --list studies, or the path of a file with a
    STUDY."""
    run_dir: Path | None = None
    """The study's folder; runs/<study> if not given."""
    seeds: Whole | None = None
    """Runs of each arm on each task, or the task's share of them; a larger number later adds runs.
    The study's if not given."""
    first_seed: int | None = None
    """Seed of the first run of each arm, for a study with other seeds; the study's if not given."""
    norms: Annotated[tuple[str, ...], some] = ALL
    """Only these arms."""
    algos: Annotated[tuple[str, ...], some] = ALL
    """Only tasks with these algorithms or models, or these variants of them (crossq-target)."""
    device: str | None = None
    """auto (a GPU where there is one and the network is not small), cpu, cuda or cuda:<k>. The
    study's if not given, or auto."""
    engine: str = "auto"
    """population (runs of one norm are trained as one batch), processes (each by itself), or auto:
    in batches what was measured to be faster so."""
    workers: Whole | None = None
    """Processes that train at a time; one a core if not given."""
    executor: Literal["processes", "ray"] = "processes"
    """processes on this machine, or a Ray cluster; docs/cluster.md."""
    address: str | None = None
    """Of the head of a Ray cluster, or auto; without it one is started on this machine."""
    budget: Positive | None = None
    """Share of each task's steps; for a first look, or more patience."""
    time_limit: str | None = None
    """How long a run, or a batch of runs, may take, such as 90m, 2h or 7200 (seconds): what hangs
    costs no other."""
    shard: str = "1/1"
    """i/n: train the i-th of n parts of the runs; docs/cluster.md."""


def main(args: Args) -> int:
    """Plan, run, summarise and report; 130 if interrupted, 1 if a run left no result."""
    if not args.study.endswith(".py"):
        check_choice("study", args.study, [*dict(studies()), "<path>.py"])
    limit = None if args.time_limit is None else seconds(args.time_limit)
    if args.address is not None and (args.executor != "ray" or args.workers is not None):
        raise UsageError("address is for --executor ray, without --workers: it joins all nodes")
    return compare(args, limit)


def seconds(text: str) -> float:
    """Return the seconds that a text such as 90m, 2h or 7200 names."""
    words = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)", text)
    if not words or not float(words[1]) > 0:
        raise UsageError(f"time_limit must be a time such as 90m, 2h or 7200, got {text!r}")
    return float(words[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[words[2]]


def compare(args: Args, limit: float | None) -> int:
    """Do what ``main`` does once the flags are looked at; here torch is imported."""
    from scripts._progress import executor, show_places, show_progress, show_tables
    from wnrl.runs import is_finished
    from wnrl.runs.machine import usable_cores
    from wnrl.study import attempts, execute, folder, tuning

    study, module = asked(args)
    shard, workers = folder.Shard.parse(args.shard), args.workers or usable_cores()
    planned = [*study.tuning_trials(), *study.trials()]
    execute.jobs(planned, args.engine, workers)  # which refuses what the engine cannot train
    root = (args.run_dir or Path("runs") / study.name).absolute()
    where, n_crashed = (root, workers, (*_cli.imports(sys.argv[1:]), module), shard.log), 0
    with (
        folder.open_study(root, study, planned, shard, " ".join(["python", *sys.argv])),
        executor(args.executor, args.address, *where) as pool,
    ):

        def train(trials: "Sequence[Trial]") -> None:
            nonlocal n_crashed
            trials = shard.of(trials)
            waiting = [trial for trial in trials if not is_finished(root / trial.folder)]
            if not waiting:
                return
            began, done = time.monotonic(), len(trials) - len(waiting)
            jobs = execute.jobs(waiting, args.engine, pool.size)
            try:
                with closing(attempts.carry_out(jobs, pool, limit)) as events:
                    n_crashed += show_progress(execute.noted(events, root), len(trials), done)
            finally:
                folder.add_duration(root, time.monotonic() - began)

        def check(trials: "Iterable[Trial]", where: Path) -> None:
            execute.check_trials(trials, where)
            execute.jobs([*trials], args.engine, workers)

        print(root, flush=True)
        if args.norms != ALL and study.baseline not in args.norms:
            print(f"without {study.baseline}, the baseline, arms are not compared", file=sys.stderr)
        trials, choices, left = tuning.conduct(study, root, train, check)
        if left:
            runs = f"{len(left)} {'runs have' if len(left) > 1 else 'run has'} not ended"
            print(f"{runs}, {left[0].title} the first; when all have, the same command goes on")
        rows = folder.publish(root, study, trials, choices) if trials else []
    if not left:
        show_tables(rows)
    if rows:
        show_places(root, rows)
    return 1 if n_crashed or (not left and any(row.runs.missing for row in rows)) else 0


def asked(args: Args) -> "tuple[Study, str]":
    """Return the study that the flags ask for, and the module that it is from."""
    from wnrl.study import cluster, execute

    if args.executor == "ray":
        cluster.loaded_ray(args.address)
    if args.study.endswith(".py"):
        study, module = execute.load_study(Path(args.study))
    else:
        module = f"scripts.studies.{args.study}"
        study = execute.study_of(module)
    study = study.only(*(() if words == ALL else words for words in (args.norms, args.algos)))
    if args.seeds is not None:
        study = study.with_seeds(args.seeds)
    if args.budget is not None:
        study = replace(study, budget=args.budget)
    if args.device is not None:
        study = replace(study, settings={**study.settings, "device": args.device})
    return study if args.first_seed is None else study.from_seed(args.first_seed), module


if __name__ == "__main__":
    _cli.run(main, Args, description=__doc__)
