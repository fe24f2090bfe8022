"""What executors cost: the time between runs, and the time before the first one.

    python scripts/bench/executors.py --runs 60 --seconds 1

Runs do nothing but wait, so that what is measured is the machinery, and not how runs share cores.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts import _cli
from wnrl.limits import FromZero, Limited, Whole, some


@dataclass(frozen=True)
class Args(Limited):
    """Measures executors with runs that wait."""

    runs: Whole = 60
    seconds: FromZero = 1.0
    """Time of a run."""
    workers: Whole = 2
    executors: Annotated[tuple[Literal["processes", "ray"], ...], some] = ("processes", "ray")


if __name__ == "__main__":
    _cli.begin(Args, __doc__)  # before torch is imported

from scripts._progress import executor
from wnrl.runs import open_run, read_json
from wnrl.study import RETURN, Arm, Study, Task, Trial
from wnrl.study.attempts import carry_out
from wnrl.study.execute import Job


def settings(trial: Trial) -> Mapping[str, Any]:
    """Return what a run's ``config.json`` holds."""
    return {"seed": trial.seed, **trial.settings}


def train(trial: Trial, folder: Path, progress: Callable[[float], None]) -> dict[str, Any]:
    """Wait, and leave when that began and ended."""
    began = time.time()
    with open_run(folder, settings(trial)) as run:
        time.sleep(max(0.0, trial.settings["seconds"] - (time.time() - began)))
        times = {"began": began, "ended": time.time(), "process": os.getpid()}
        result = {"status": "finished", "window_return": 0.0, **times}
        run.write_result(result)
    return result


def main(args: Args) -> None:
    """Print the cost of each executor."""
    runner, waits = "scripts.bench.executors:train", {"seconds": args.seconds}
    task = Task("waiting", "none", runner, RETURN, waits)
    trials = Study("waiting", [task], [Arm("none")], "none", seeds=range(args.runs)).trials()
    jobs = [Job((trial,)) for trial in trials]
    for name in args.executors:
        with tempfile.TemporaryDirectory() as folder:
            called = time.time()
            with executor(name, None, Path(folder), args.workers) as pool:
                list(carry_out(jobs, pool))
            results = [read_json(Path(folder) / t.folder / "result.json") for t in trials]
        waited = min(result["began"] for result in results) - called
        what = f"{args.runs} runs of {args.seconds:g} s on {args.workers} workers"
        over = f"{100 * share_over(results):.1f} % over the runs' own time"
        print(f"{name}: {what}: {over}; {waited:.1f} s until the first began")


def share_over(results: Sequence[Mapping[str, Any]]) -> float:
    """Return how much longer workers took from their first run to their last than these took."""
    busy = sum(result["ended"] - result["began"] for result in results)
    spans = 0.0
    for process in {result["process"] for result in results}:
        done = [result for result in results if result["process"] == process]
        spans += max(r["ended"] for r in done) - min(r["began"] for r in done)
    return spans / busy - 1


if __name__ == "__main__":
    _cli.run(main, Args, description=__doc__)
