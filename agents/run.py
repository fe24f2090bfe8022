"""The runner of agents: from settings to a finished run folder, and back to the agent in it."""

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.vec_env import VecEnv

import envs
from agents import AGENTS
from agents.settings import Settings, config_of, joined, settings_of
from wnrl import runs, tensor_envs
from wnrl.errors import UsageError, check_choice, first_line
from wnrl.nn.conversion import check_options
from wnrl.norms import NORMS
from wnrl.population import COHORTS
from wnrl.population.cohort import Cohort
from wnrl.population.memory import members_that_fit
from wnrl.population.run import CohortRun
from wnrl.rl.environments import first_env_seed, vectorize
from wnrl.rl.hardware import choose_device, choose_threads, is_small
from wnrl.rl.run import AgentRun, Plan
from wnrl.rl.snapshots import BEST, FILES, MODEL, STATISTICS, Model

ASKED = ("norm", "seed", "env_kwargs", "max_episode_steps")
"""Of ``Settings``, those that a population is asked about."""
PREFIXES = {"last": "", "best": BEST}
OF_STUDY = runs.Options(resume=True, keep_checkpoint=False)


def complete(algo: str, env_id: str, norm: str, seed: int, **values: Any) -> dict[str, Any]:
    """Return all settings of a run, as its ``config.json`` will have them.

    Args:
        algo: A key of ``AGENTS``.
        env_id: Of the environment.
        norm: A key of ``wnrl.NORMS``.
        seed: Of everything.
        **values: Hyperparameters and fields of ``Settings``; what is not there is the preset's.

    Raises:
        UsageError: There is no such word or setting, or a value cannot be used.
    """
    row = AGENTS[check_choice("algo", algo, AGENTS)]
    check_choice("norm", norm, NORMS)
    run = Settings(algo=algo, env_id=env_id, norm=norm, seed=seed)
    usual = joined(run, row.preset(env_id, values.get("variant")))
    for name in values:
        check_choice("setting", name, usual)
    told = usual | values
    run, config = settings_of(told), config_of(told)
    if run.device != "auto":
        run = replace(run, device=str(runs.resolve_device(run.device)))
    return joined(run, config)


def settings(trial: Any) -> dict[str, Any]:
    """Return the settings of a trial of ``wnrl.study``.

    Raises:
        UsageError: As ``complete``.
    """
    task, norm, options = trial.task, trial.arm.norm, dict(trial.norm_kwargs)
    values = {**trial.settings, **({"norm_kwargs": options} if options else {})}
    told = complete(task.algo, task.name, norm, trial.seed, **values)
    factory_of(told)  # which says what is missing
    check_options(norm, NORMS[norm], options)
    return told


def defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what each setting of a run is where nothing is said, with or without a preset."""
    return joined(Settings(), AGENTS[settings["algo"]].config())


MEANING = runs.Meaning(("total_timesteps",), lambda settings: settings["total_timesteps"], defaults)


def train(trial: Any, folder: Path, progress: Callable[[float], None]) -> dict[str, Any]:
    """Train the agent of a trial, or go on with it, or return its result if it is finished."""
    return train_agent(folder, settings(trial), OF_STUDY, progress)


def batching(trial: Any) -> runs.Batching:
    """Return how a trial of ``wnrl.study`` can be trained together with others."""
    values = settings(trial)
    try:
        cohort = _cohort([values], "cpu")
    except UsageError as error:
        return runs.Batching(refusal=str(error))
    widths = (*values["net_arch"], values.get("lstm_hidden_size", 0))
    batching = runs.Batching(pays=max(widths) <= cohort.measured_width)
    if values["device"] in ("auto", "cpu"):
        return batching
    fit = members_that_fit(cohort.bytes, None, runs.resolve_device(values["device"]))
    return replace(batching, members=max(1, fit))


def train_batch(
    trials: Sequence[Any], folders: Sequence[Path], progress: Callable[[float], None]
) -> list[dict[str, Any]]:
    """Train the agents of trials with one ``batch_key`` as a cohort, or go on with them."""
    values = [settings(trial) for trial in trials]
    device = runs.resolve_device("cpu" if values[0]["device"] == "auto" else values[0]["device"])
    torch.set_num_threads(1)

    def build(places: Sequence[int]) -> CohortRun:
        members = [values[place] for place in places]
        first, cohort = members[0], _cohort(members, device)
        machine, identity = {"device": str(device), "threads": 1}, {"task": first["env_id"]}
        return CohortRun(cohort, first["algo"], _plan(first), machine, identity)

    return runs.carry_out_batch(folders, values, build, MEANING, FILES, OF_STUDY, progress)


def _cohort(members: Sequence[Mapping[str, Any]], device: torch.device | str) -> Cohort:
    """Return a cohort whose members have these settings; UsageError for what it does not have."""
    algo, env_id = members[0]["algo"], members[0]["env_id"]
    cohort = COHORTS[check_choice("algo of a population", algo, COHORTS)]
    configs = [cohort.member(_of_cohort(settings)) for settings in members]
    return cohort(tensor_envs.make(env_id), configs, device=device)


def _of_cohort(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that an algorithm of ``wnrl.population`` is asked about."""
    others = {f.name for f in fields(Settings)} - {*ASKED}
    return {key: value for key, value in settings.items() if key not in others}


def train_agent(
    folder: Path, settings: Mapping[str, Any], options: runs.Options, *reports: Callable[..., None]
) -> dict[str, Any]:
    """Train, save and evaluate one agent, or return the result of a run that was finished.

    Args:
        folder: The run's.
        settings: From ``complete``.
        options: How it is carried out.
        *reports: ``progress`` and ``accepted``, as ``wnrl.runs.carry_out`` has them.

    Returns:
        What ``result.json`` holds. ``final_return`` is the mean return of the agent as it is after
        training, ``best_return`` that of the one that was best on the learning curve, played
        again; ``window_return`` is the mean of the curve's last tenth. ``steps_per_second`` is
        environment steps over the time of rollouts and updates.

    Raises:
        UsageError: The run cannot be done; its folder is as it was.
        Stopped: A signal came.
    """
    with ExitStack() as stack:

        def build() -> AgentRun:
            row, config = AGENTS[settings["algo"]], config_of(settings)
            factory = factory_of(settings)
            env = stack.enter_context(closing(_environments(config, settings, factory)))
            small = is_small(env.observation_space, config.policy_arguments())
            device = choose_device(settings["device"], small)
            threads = choose_threads(settings["threads"], small)
            torch.set_num_threads(threads)
            model = row.build(config, env, settings["norm"], settings["seed"], device)
            if settings["compile"] and not row.compiled:
                print(f"--compile: nothing of {settings['algo']} is compiled", file=sys.stderr)
            machine, identity = {"device": device, "threads": threads}, {"task": settings["env_id"]}
            compiled = row.compiled if settings["compile"] else ()
            drawn = factory.drawn() if settings["film"] else None
            given = (_plan(settings), model, factory, machine, identity)
            return AgentRun(*given, compiled, config.frame_stack, drawn)

        return runs.carry_out(folder, settings, build, MEANING, FILES, options, *reports)


def load_run(
    folder: Path, which: str = "last", device: torch.device | str = "cpu"
) -> tuple[Model, Path | None, dict[str, Any]]:
    """Return the agent of a finished run, built from its settings; no pickle is read.

    Args:
        folder: The run's.
        which: last, the agent after training, or best, the one on its curve.
        device: Where its network is to be.

    Returns:
        The agent, the file with the statistics of its observations if it has any, and the settings.

    Raises:
        UsageError: It is not there, of another program, damaged or not finished.
    """
    prefix = PREFIXES[check_choice("which", which, PREFIXES)]
    settings = runs.read_config(folder, "algo")
    if not (settings and runs.is_finished(folder)):
        raise UsageError(f"run_dir {folder} is no folder of a finished run")
    config = config_of(settings)
    settings = {**joined(settings_of(settings), config), "subprocesses": False}
    check_choice("norm", settings["norm"], NORMS)
    result, path = runs.read_result(folder), runs.checked_file(folder, prefix + MODEL)
    scaled = settings["normalize"] != "none"
    statistics = runs.checked_file(folder, prefix + STATISTICS) if scaled else None
    row = AGENTS[settings["algo"]]
    if hasattr(config, "buffer_size"):  # it only acts
        config = replace(config, buffer_size=config.batch_size)
    with closing(_environments(config, settings, factory_of(settings))) as env:
        model = row.build(config, env, settings["norm"], settings["seed"], device)
    try:
        with warnings.catch_warnings():  # torch's, of other pickles
            warnings.simplefilter("ignore")
            model.set_parameters(str(path), device=device)
    except Exception as error:  # zipfile's, pickle's, torch's and SB3's own
        reason = first_line(error).partition(" In PyTorch")[0]  # which tells how to run its code
        raise UsageError(f"{path} holds another agent: {reason}") from error
    with runs.reading(folder / runs.RESULT):
        model.num_timesteps = int(result["steps" if which == "last" else "best_step"])
    return model, statistics, settings


def _plan(settings: Mapping[str, Any]) -> Plan:
    return Plan(**{field.name: settings[field.name] for field in fields(Plan)})


def factory_of(settings: Mapping[str, Any], render_mode: str | None = None) -> envs.EnvFactory:
    """Return what makes the environments of a run, for its settings."""
    names = ("env_id", "max_episode_steps", "env_kwargs")
    return envs.factory(render_mode=render_mode, **{name: settings[name] for name in names})


def _environments(config: Any, settings: Mapping[str, Any], factory: envs.EnvFactory) -> VecEnv:
    seed, seen = first_env_seed(settings["seed"]), (config.normalize, config.gamma)
    stacked, apart = config.frame_stack, settings["subprocesses"]
    return vectorize(factory, config.n_envs, seed, *seen, stacked, subprocesses=apart)
