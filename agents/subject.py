"""An agent to evaluate, from a run's folder or a zip of SB3's, and the environments it acts in."""

import re
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.vec_env import VecEnv

import envs
from agents import AGENTS
from agents.run import load_run
from wnrl.rl.environments import vectorize_for_evaluation
from wnrl.rl.loading import load_agent, load_pickled_statistics
from wnrl.rl.snapshots import STATISTICS, Model
from wnrl.rl.statistics import load_statistics


@dataclass(frozen=True)
class Subject:
    """Who is evaluated, and where."""

    model: Model
    environment: Mapping[str, Any]
    """Settings, of which those in ``agents.settings.ENVIRONMENT`` are looked at."""
    statistics: Path | None
    """Those of observations: our file, or SB3's ``.pkl``."""
    about: Mapping[str, Any]
    """What a result says of the agent."""

    @classmethod
    def of_run(cls, folder: Path, which: str, device: torch.device) -> "Subject":
        """Return the agent of a finished run; see ``load_run``.

        Raises:
            UsageError: It is not there, damaged or not finished.
        """
        model, statistics, settings = load_run(folder, which, device)
        told = {"which": which, "algo": settings.algo, "norm": settings.norm}
        about = {"run_dir": str(folder), **told, "trained_seed": settings.seed}
        return cls(model, settings.to_json(), statistics, about)

    @classmethod
    def of_zip(
        cls,
        path: Path,
        environment: Mapping[str, Any],
        statistics: Path | None,
        device: torch.device,
    ) -> "Subject":
        """Return the agent that SB3's ``model.save`` wrote; reading it runs code from it.

        Args:
            path: The zip.
            environment: As the field.
            statistics: Of observations; None for our own file beside the zip, if there is one.
            device: Where the network is to be.

        Raises:
            UsageError: A file is not there or damaged, or the agent does not fit the environment.
        """
        algorithms = [row.config.algorithm for row in AGENTS.values()]
        names = (path.name.replace("model.zip", STATISTICS), STATISTICS)
        beside = [path.with_name(name) for name in names if name != path.name]
        statistics = statistics or next(filter(Path.is_file, beside), None)
        with closing(_raw(environment, 1)) as env:
            model = load_agent(path, algorithms, device, env)
        return cls(model, environment, statistics, {"model": str(path)})

    def environments(self, n_envs: int, render_mode: str | None = None) -> VecEnv:
        """Return environments as the agent knows them, with raw rewards.

        Raises:
            UsageError: The statistics are damaged or of other observations, or the environment
                cannot be drawn.
        """
        env = _raw(self.environment, n_envs, render_mode)
        if self.statistics is None:
            return env
        load = load_pickled_statistics if self.statistics.suffix == ".pkl" else load_statistics
        return load(env, self.statistics)


def _raw(environment: Mapping[str, Any], n_envs: int, render_mode: str | None = None) -> VecEnv:
    names = ("env_id", "max_episode_steps", "env_kwargs")
    factory = envs.factory(render_mode=render_mode, **{name: environment[name] for name in names})
    return vectorize_for_evaluation(factory, n_envs, None, environment["frame_stack"])


def told_of_pickles(model: Path, env_id: str) -> str:
    """Return what is to be said of statistics of SB3's near a zip, which may be its own.

    They are looked for where ``CheckpointCallback``, ``EvalCallback``, the zoo and its hub put
    them: beside the zip or in a folder there that has the name of the environment, then one up.
    The likeliest is named.
    """
    name = env_id.rpartition(":")[2]
    steps = re.search(r"_\d+_steps$", model.stem)
    end = f"{steps[0]}.pkl" if steps else "normalize.pkl"
    near: list[Path] = []
    for folder in (model.parent, model.absolute().parent.parent):
        places = {folder / part for part in ("", name, name.replace("/", "-"))}
        pickles = [path for place in places for path in place.glob("*vec*normalize*.pkl")]
        near += sorted(pickles, key=lambda path: (not path.name.endswith(end), path))
    if not near:
        names = f"{STATISTICS}, *vec*normalize*.pkl"
        return f"none are near {model} ({names}); --statistics names others"
    return f"not read, since a pickle runs code: {near[0]}; --statistics {near[0]} reads it"
