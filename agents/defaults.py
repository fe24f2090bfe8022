"""What the flags mean that are not given: the preset, a file's settings or those of a run."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agents import AGENTS
from agents.config_file import read_config_file
from agents.settings import Settings, config_of, settings_of
from wnrl.errors import UsageError, check_choice

CHOSEN_AGAIN = ("device", "threads")  # a run may go on elsewhere


@dataclass(frozen=True, kw_only=True)
class Given:
    """The flags that decide what all others mean, as far as they are given."""

    algo: str | None = None
    env_id: str | None = None
    variant: str | None = None
    norm: str | None = None
    seed: int | None = None
    run_dir: Path | None = None
    config: Path | None = None
    resume: bool = False

    def defaults(self) -> tuple[Settings, Any]:
        """Return the settings and hyperparameters for flags that are not given.

        With ``resume`` it is what the run in the folder has, with ``config`` what the file has,
        else the preset for the algorithm and environment.

        Raises:
            UsageError: There is no such algorithm or variant, the file cannot be used, or the
                folder holds no run of an agent, and nothing says which one to begin.
        """
        begun = self._of_file() if self.config else preset_of(self.algo, self.env_id, self.variant)
        if not self.resume:
            return begun
        from wnrl.runs import read_config  # which imports torch

        where = {name: getattr(self, name) for name in ("norm", "seed")}
        where = {name: value for name, value in where.items() if value is not None}
        folder = self.run_dir or replace(begun[0], **where).usual_folder
        earlier = read_config(folder, "algo")
        if not (earlier or self.algo or self.env_id or self.config):
            raise UsageError(
                f"run_dir {folder} holds no run to go on with; to begin one there, say which: "
                "--algo or --env-id"
            )
        if not earlier or self.algo not in (None, earlier["algo"]):
            return begun
        if self.config:
            raise UsageError(f"run_dir {folder} holds a run with its own config; leave --config")
        told = {name: value for name, value in earlier.items() if name not in CHOSEN_AGAIN}
        return settings_of(told), config_of(told)

    def _of_file(self) -> tuple[Settings, Any]:
        if self.variant:
            raise UsageError("variant goes over a preset, and --config is given")
        assert self.config is not None
        told = read_config_file(self.config, self.algo, self.env_id)
        return settings_of(told), config_of(told)


def preset_of(
    algo: str | None = None, env_id: str | None = None, variant: str | None = None
) -> tuple[Settings, Any]:
    """Return settings and tuned hyperparameters, of PPO and the algorithm's first task by default.

    Raises:
        UsageError: There is no such algorithm or variant.
    """
    algo = algo or "ppo"
    row = AGENTS[check_choice("algo", algo, AGENTS)]
    env_id = env_id or next(iter(row.presets))
    return Settings(algo=algo, env_id=env_id, variant=variant), row.preset(env_id, variant)
