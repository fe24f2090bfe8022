"""What a process of its own costs an environment, in CPU seconds of all processes.

    python scripts/bench/environments.py

``--subprocesses`` divides the work of n environments among c cores, and adds that of sending
actions and observations. It pays where a step takes longer than that addition over c − 1: on two
cores, than the addition itself. Wall-clock times follow; they mean something on a quiet machine.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import os
import time
from dataclasses import dataclass
from typing import Annotated, Any

from scripts import _cli
from wnrl.limits import Limited, Whole, some

N_ENVS = 8


@dataclass(frozen=True)
class Args(Limited):
    """Flags."""

    env_ids: Annotated[tuple[str, ...], some] = ("CartPole-v1", "Pendulum-v1", "ALE/Pong-v5")
    """Environments, by id."""
    steps: Whole = 1000
    """Steps of all of them, behind a tenth as many for warm-up."""


if __name__ == "__main__":
    _cli.begin(Args, __doc__)  # before torch is imported

import numpy as np

from envs import factory as factory_of
from scripts.bench._rounds import table
from wnrl.rl.environments import vectorize


def processor_seconds(pids: list[int]) -> float:
    """Return the CPU seconds of this process and of others, as Linux tells them."""
    stats = [Path(f"/proc/{pid}/stat").read_text(encoding="utf-8") for pid in pids]
    ticks = sum(int(n) for text in stats for n in text.rpartition(")")[2].split()[11:13])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def cost(venv: Any, steps: int) -> tuple[float, float]:
    """Return CPU and wall-clock microseconds for a step of one of SB3's ``VecEnv``."""
    pids = [process.pid for process in getattr(venv.unwrapped, "processes", ())]
    venv.reset()
    actions = np.array([venv.action_space.sample() for _ in range(venv.num_envs)])
    for n in (steps // 10, steps):
        cpu, wall = processor_seconds(pids), time.perf_counter()
        for _ in range(n):
            venv.step(actions)
    took = processor_seconds(pids) - cpu, time.perf_counter() - wall
    venv.close()
    return took[0] / steps / venv.num_envs * 1e6, took[1] / steps / venv.num_envs * 1e6


def main(args: Args) -> None:
    """Print a row for each environment."""

    def row(name: str) -> tuple[str, ...]:
        venvs = (vectorize(factory_of(name), N_ENVS, 0, subprocesses=s) for s in (False, True))
        (alone, wall), (several, walls) = (cost(venv, args.steps) for venv in venvs)
        cpu = (f"{x:.0f}" for x in (alone, several, several - alone))
        return name, *cpu, f"{wall:.0f}; {walls:.0f}"

    names = ("environment", "CPU µs a step", "with processes", "added", "wall-clock, one; several")
    table(names, map(row, args.env_ids))


if __name__ == "__main__":
    _cli.run(main, Args, description=__doc__)
