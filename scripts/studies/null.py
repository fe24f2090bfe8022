"""Equal arms under different names: any that is called better or worse is a false verdict.

Each arm is the plain network of ``quick`` on CartPole with seeds that no other arm has, so nothing
is paired in truth. Another study of the kind: ``--first-seed 10000 --run-dir runs/null_1``.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agents import run
from scripts.studies._tasks import cartpole
from wnrl.runs import Batching
from wnrl.study import Arm, Study, Trial

defaults = run.defaults
NAMES = ("none", "none_b", "none_c", "none_d")
SHORT = {"total_timesteps": 20_480}


def settings(trial: Trial) -> dict[str, Any]:
    """Return the settings of a run with its arm's own seed."""
    return run.settings(_own(trial))


def train(trial: Trial, folder: Path, progress: Callable[[float], None]) -> dict[str, Any]:
    """Train one agent."""
    return run.train(_own(trial), folder, progress)


def batching(trial: Trial) -> Batching:
    """Return how agents are trained together."""
    return run.batching(_own(trial))


def train_batch(
    trials: Sequence[Trial], folders: Sequence[Path], progress: Callable[[float], None]
) -> list[dict[str, Any]]:
    """Train several agents."""
    return run.train_batch([*map(_own, trials)], folders, progress)


def _own(trial: Trial) -> Trial:
    return replace(trial, seed=len(NAMES) * trial.seed + NAMES.index(trial.arm.name))


STUDY = Study(
    "null",
    tasks=[cartpole("CartPole-v1", "ppo", runner="scripts.studies.null:train", settings=SHORT)],
    arms=[Arm(name, "none") for name in NAMES],
    baseline="none",
    seeds=range(10),
    tuned={"learning_rate": (1e-3, 3e-3, 1e-2)},
    tuning_seeds=range(1000, 1003),
)
