"""What the flags mean that are not given: the preset, a file's settings or those of a run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from agents import AGENTS
from agents.config_file import read_config_file
from agents.settings import Settings
from wnrl.errors import UsageError, check_choice


def of_flags(
    *,
    algo: str | None = None,
    env_id: str | None = None,
    variant: str | None = None,
    norm: str | None = None,
    seed: int | None = None,
    run_dir: Path | None = None,
    config: Path | None = None,
    resume: bool = False,
) -> Settings:
    """Return the settings for flags that are not given.

    Those that are given decide: with ``resume`` it is what the run in the folder has, with
    ``config`` what the file has, else the preset for the algorithm and environment.

    Raises:
        UsageError: There is no such algorithm or variant, the file cannot be used, or the folder
            holds no run of an agent, and nothing says which one to begin.
    """
    if config is None:
        begun = preset_of(algo, env_id, variant)
    elif variant:
        raise UsageError("variant goes over a preset, and --config is given")
    else:
        begun = Settings.from_json(read_config_file(config, algo, env_id))
    if not resume:
        return begun
    from wnrl.runs import read_config  # which imports torch

    named: dict[str, Any] = {"norm": norm, "seed": seed}
    where = {name: value for name, value in named.items() if value is not None}
    folder = run_dir or replace(begun, **where).usual_folder
    earlier = read_config(folder, "algo")
    if not (earlier or algo or env_id or config):
        lacks = f"run_dir {folder} holds no run to go on with"
        raise UsageError(f"{lacks}; to begin one there, say which: --algo or --env-id")
    if not earlier or algo not in (None, earlier["algo"]):
        return begun
    if config:
        raise UsageError(f"run_dir {folder} holds a run with its own config; leave --config")
    return Settings.from_json({**earlier, "device": "auto"})  # a run may go on elsewhere


def preset_of(
    algo: str | None = None, env_id: str | None = None, variant: str | None = None
) -> Settings:
    """Return settings with tuned hyperparameters, of PPO and the algorithm's first task by default.

    Raises:
        UsageError: There is no such algorithm or variant.
    """
    algo = algo or "ppo"
    row = AGENTS[check_choice("algo", algo, AGENTS)]
    env_id = env_id or next(iter(row.presets), Settings.env_id)
    config = row.preset(env_id, variant)
    return Settings(algo=algo, env_id=env_id, variant=variant, config=config)
