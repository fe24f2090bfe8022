"""Equal arms under different names: any that is called better or worse is a false verdict.

Each arm is the plain network of ``quick`` on CartPole with seeds that no other arm has, so nothing
is paired in truth. Another study of the kind: ``--first-seed 10000 --run-dir runs/null_1``.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from agents import run
from scripts.studies._tasks import cartpole
from wnrl.study import Arm, Study, Trial

NAMES = ("none", "none_b", "none_c", "none_d")
SHORT = {"total_timesteps": 20_480}


def _own(trial: Trial) -> Trial:
    return replace(trial, seed=len(NAMES) * trial.seed + NAMES.index(trial.arm.name))


def _of_own(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of a trial that gives the trial its arm's own seed."""
    return lambda trial, *rest: function(_own(trial), *rest)


defaults = run.defaults
settings, train, batching = _of_own(run.settings), _of_own(run.train), _of_own(run.batching)


def train_batch(trials: Sequence[Trial], *rest: Any) -> list[dict[str, Any]]:
    """Train several agents."""
    return run.train_batch([*map(_own, trials)], *rest)


STUDY = Study(
    "null",
    tasks=[cartpole("CartPole-v1", "ppo", runner="scripts.studies.null:train", settings=SHORT)],
    arms=[Arm(name, "none") for name in NAMES],
    baseline="none",
    seeds=range(10),
    tuned={"learning_rate": (1e-3, 3e-3, 1e-2)},
    tuning_seeds=range(1000, 1003),
)
