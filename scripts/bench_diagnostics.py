"""Times training with the diagnostics callback against training without it.

    python scripts/bench_diagnostics.py

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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts._interrupt import leave_at_ctrl_c

if __name__ == "__main__":
    leave_at_ctrl_c()  # until _cli.run catches it

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

import envs
from agents import AGENTS, vectorize
from agents.training import Model
from scripts import _cli
from wnrl.errors import UsageError, check_choice, check_positive
from wnrl.norms import NORMS
from wnrl.sb3 import Diagnostics
from wnrl.sb3.diagnostics import EVERY

TASKS = {
    "ppo CartPole-v1": 6144,
    "dqn CartPole-v1": 4096,
    "sac Pendulum-v1": 2000,
}
"""Algorithm and environment, with the preset of the two, to the steps of a segment."""


@dataclass(frozen=True)
class Args:
    """Flags."""

    rounds: int = 5
    """Segments of each agent that count, at least one."""
    every: int = EVERY
    """Environment steps between measurements."""
    curvature: bool = False
    """Measure curvature too, where there is one."""
    norm: str = "weight"
    """Norm of the networks."""
    only: str = ""
    """Tasks whose name contains this; all by default."""
    seed: int = 0
    """Seed of both agents."""

    def __post_init__(self) -> None:
        check_positive(rounds=self.rounds, every=self.every)
        check_choice("norm", self.norm, NORMS)
        if not any(self.only in task for task in TASKS):
            raise UsageError(f"only must be part of {', '.join(TASKS)}; got {self.only!r}")


def build(task: str, args: Args, run_dir: Path) -> Model:
    """An agent with its preset, which logs to ``run_dir``."""
    algo, env_id = task.split()
    config = AGENTS[algo].preset(env_id)
    env = vectorize(
        envs.factory(env_id), config.n_envs, args.seed, config.normalize, gamma=config.gamma
    )
    return AGENTS[algo].build(config, env, args.norm, args.seed, "cpu", run_dir)


class Timed(Diagnostics):
    """Counts the CPU seconds inside of the callback, and its measurements."""

    seconds, count = 0.0, 0

    def _on_rollout_end(self) -> None:
        with self._clock():
            super()._on_rollout_end()

    def _on_rollout_start(self) -> None:
        with self._clock():
            super()._on_rollout_start()

    def _measure(self) -> None:
        self.count += 1
        super()._measure()

    @contextmanager
    def _clock(self) -> Iterator[None]:
        start = time.process_time()
        yield
        self.seconds += time.process_time() - start


@dataclass(frozen=True)
class Times:
    """What was measured for a task, in CPU seconds, by round."""

    without: np.ndarray
    """Of a segment without the callback, ``(rounds,)``."""
    with_it: np.ndarray
    """With the callback, ``(rounds,)``."""
    inside: np.ndarray
    """In the callback, ``(rounds,)``."""
    counts: np.ndarray
    """Measurements, ``(rounds,)``."""


def segment_seconds(model: Model, steps: int, callback: Diagnostics | None) -> float:
    """CPU seconds of ``steps`` more environment steps."""
    start = time.process_time()
    model.learn(steps, callback, reset_num_timesteps=False)
    return time.process_time() - start


def measure(task: str, steps: int, args: Args) -> Times:
    """Trains both agents, in segments of ``steps`` environment steps."""
    callback = Timed(args.every, curvature=args.curvature and not task.startswith("sac"))
    with tempfile.TemporaryDirectory() as folder:
        arms = [
            (index, build(task, args, Path(folder, str(index))), found)
            for index, found in enumerate((None, callback))
        ]
        rows = np.zeros((args.rounds + 1, 4))
        for row in rows:
            callback.seconds, callback.count = 0.0, 0
            for index, model, found in arms:
                row[index] = segment_seconds(model, steps, found)
            row[2:] = callback.seconds, callback.count
            arms.reverse()
    return Times(*rows[1:].T)


def show(task: str, steps: int, times: Times) -> str:
    """A row of the table."""
    low, ratio, high = np.percentile(times.with_it / times.without, [25, 50, 75])
    speed = steps / np.median(times.without)
    share = times.inside.sum() / times.without.sum()
    cost = times.inside.sum() / max(1, times.counts.sum())
    return (
        f"| {task} | {speed:.0f} | {ratio:.3f} ± {(high - low) / 2:.3f} | {share:.2%} "
        f"| {cost * 1e3:.1f} |"
    )


def main(args: Args) -> None:
    """Measures every task, and prints the table."""
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one CPU thread, norm {args.norm}, every {args.every} steps")
    print("| | steps a CPU second | time with / without | inside | ms a measurement |")
    print("|---|---|---|---|---|")
    for task, steps in TASKS.items():
        if args.only in task:
            print(show(task, steps, measure(task, steps, args)), flush=True)


if __name__ == "__main__":
    _cli.run(main, Args, description=__doc__)
