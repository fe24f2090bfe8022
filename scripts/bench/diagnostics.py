"""Time training with the diagnostics callback against training without it.

    python scripts/bench/diagnostics.py

Two agents with the same seed train side by side, one of them with the callback. It changes no bit
of training, so that both do the same work, in segments of so many environment steps that alternate
and change places from round to round. What counts is the ratio of their times *within* a round, in
CPU seconds of this process, on one thread; the first round is warm-up. The table shows the median
ratio with half the distance between its quartiles; the time inside of the callback as a share of
training without it, which a busy machine disturbs less, but which leaves its hooks out; and that
time for one measurement.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass

from scripts import _cli
from wnrl.limits import Limited, NormKey, Whole

TASKS = {"ppo CartPole-v1": 6144, "dqn CartPole-v1": 4096, "sac Pendulum-v1": 2000}
"""Algorithm and environment, with the preset of the two, to the steps of a segment."""


@dataclass(frozen=True)
class Args(Limited):
    """Flags."""

    rounds: Whole = 5
    """Segments of each agent that count, at least one."""
    norm: NormKey = "weight"
    """Norm of the networks."""


if __name__ == "__main__":
    _cli.begin(Args, __doc__)  # before torch is imported

import numpy as np

from scripts.bench._rounds import CPU, agent_of, cell, clocked, interleaved, prepare, table
from wnrl.rl.run import log_to
from wnrl.rl.snapshots import Model
from wnrl.runs import EventFile
from wnrl.sb3.callbacks import EVERY, Diagnostics

INSIDE, COUNT = CPU + 1, CPU + 2
"""Columns behind those of ``clocked``: CPU seconds in the callback, and its measurements."""


class Timed(Diagnostics):
    """Counts the CPU seconds inside of the callback, and its measurements."""

    seconds, count = 0.0, 0

    def _on_rollout_end(self) -> None:
        self.seconds += clocked(super()._on_rollout_end)[CPU]

    def _on_rollout_start(self) -> None:
        self.seconds += clocked(super()._on_rollout_start)[CPU]

    def _measure(self) -> None:
        self.count += 1
        super()._measure()


def build(task: str, norm: str, run_dir: Path) -> Model:
    """Return an agent with its preset, which logs to ``run_dir``."""
    algo, env_id = task.split()
    model = agent_of(algo, env_id, norm)
    run_dir.mkdir()
    log_to(model, EventFile(run_dir))
    return model


def measure(task: str, steps: int, args: Args) -> dict[str, np.ndarray]:
    """Train both agents, in segments of ``steps`` environment steps, and return their times."""
    timed = Timed()

    def segment(model: Model, callback: Timed | None) -> list[float]:
        timed.seconds, timed.count = 0.0, 0
        times = clocked(lambda: model.learn(steps, callback, reset_num_timesteps=False))
        return [*times, timed.seconds, timed.count]

    with tempfile.TemporaryDirectory() as folder:
        plain, watched = (
            build(task, args.norm, Path(folder, name)) for name in ("plain", "watched")
        )
        arms = {"without": lambda: segment(plain, None), "with": lambda: segment(watched, timed)}
        return interleaved(arms, args.rounds)


def row(task: str, steps: int, times: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Return a row of the table."""
    without, watched = times["without"][:, CPU], times["with"]
    inside, count = watched[:, INSIDE].sum(), watched[:, COUNT].sum()
    speed, over = f"{steps / np.median(without):.0f}", cell(watched[:, CPU], without, digits=3)
    return task, speed, over, f"{inside / without.sum():.2%}", f"{inside / max(1, count) * 1e3:.1f}"


def main(args: Args) -> None:
    """Measure every task, and print the table."""
    prepare("cpu", 1, f"norm {args.norm}, every {EVERY} steps")
    names = ("", "steps a CPU second", "time with / without", "inside", "ms a measurement")
    table(names, (row(task, n, measure(task, n, args)) for task, n in TASKS.items()))


if __name__ == "__main__":
    _cli.run(main, Args, description=__doc__)
