"""The programs' way to train an agent, as a runner of a study."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import envs
from agents import AGENTS
from scripts import train_agent
from wnrl.rl.hardware import choose_device, is_small
from wnrl.runs import resolve_device
from wnrl.study.execute import Progress
from wnrl.study.plan import Trial


def train(trial: Trial, folder: Path, progress: Progress) -> dict[str, Any]:
    """Train the run of a trial, or return the result of one that is finished."""
    return train_agent.train(arguments(trial, folder), progress)


def settings(trial: Trial) -> dict[str, Any]:
    """Return the configuration that the run will have."""
    return arguments(trial, Path()).as_config()


def arguments(trial: Trial, folder: Path) -> train_agent.Args[Any]:
    """Return the flags with which a program would do the same run alone."""
    task, values = trial.task, dict(trial.settings)
    asked, threads = values.pop("device"), values.pop("threads")
    common: dict[str, Any] = {"norm": trial.arm.norm, "seed": trial.seed, "run_dir": folder}
    common |= {"threads": threads, "resume": True, "keep_checkpoint": False}
    config = replace(AGENTS[task.algo].preset(task.name), **values)
    device = _device(task.name, config, asked)
    return train_agent.Args.of(task.algo, task.name, config=config, device=device, **common)


def _device(env_id: str, config: Any, asked: str) -> str:
    """Return where an agent trains; with no GPU there is no environment to look at."""
    device = str(resolve_device(asked))
    if asked != "auto" or device == "cpu":
        return device
    with closing(envs.factory(env_id)()) as env:
        small = is_small(env.observation_space, config.policy_arguments())
    return choose_device(asked, small)[0]
