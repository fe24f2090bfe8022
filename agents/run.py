"""The runner of agents: from settings to a finished run folder, and back to the agent in it."""

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.vec_env import VecEnv

import envs
from agents import AGENTS
from agents.defaults import preset_of
from agents.settings import Settings
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
from wnrl.rl.models import set_step
from wnrl.rl.run import AgentRun, Plan
from wnrl.rl.snapshots import BEST, FILES, MODEL, STATISTICS, Model

ASKED = ("env_kwargs", "max_episode_steps", "norm", "seed")
"""Of ``Settings``, those that a population is asked about."""
PREFIXES = {"last": "", "best": BEST}
OF_STUDY = runs.Options(resume=True, keep_checkpoint=False)


def checked(settings: Settings) -> Settings:
    """Return settings with the device that they name as torch does, if it is here.

    Raises:
        UsageError: There is no such norm, variant or device.
    """
    check_choice("norm", settings.norm, NORMS)
    if settings.variant is not None:
        check_choice("variant", settings.variant, AGENTS[settings.algo].variants)
    if settings.device == "auto":
        return settings
    return replace(settings, device=str(runs.resolve_device(settings.device)))


def settings(trial: Any) -> dict[str, Any]:
    """Return the settings of a trial of ``wnrl.study``, as its ``config.json`` will have them.

    Raises:
        UsageError: There is no such word or setting, or a value cannot be used.
    """
    return of_trial(trial).to_json()


def of_trial(trial: Any) -> Settings:
    """Return the settings of a trial; what it does not say is the preset's."""
    task, norm, options = trial.task, trial.arm.norm, dict(trial.norm_kwargs)
    values = {**trial.settings, **({"norm_kwargs": options} if options else {})}
    usual = preset_of(task.algo, task.name, values.get("variant")).to_json()
    for name in values:
        check_choice("setting", name, usual)
    told = dict(algo=task.algo, env_id=task.name, norm=norm, seed=trial.seed, **values)
    settings = checked(Settings.from_json(usual | told))
    factory_of(settings)  # which says what is missing
    check_options(norm, options)
    return settings


def defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what each setting of a run is where nothing is said, with or without a preset."""
    return Settings(config=AGENTS[settings["algo"]].config()).to_json()


MEANING = runs.Meaning(("total_timesteps",), lambda settings: settings["total_timesteps"], defaults)


def train(trial: Any, folder: Path, progress: Callable[[float], None]) -> dict[str, Any]:
    """Train the agent of a trial, or go on with it, or return its result if it is finished."""
    return train_agent(folder, of_trial(trial), OF_STUDY, progress)


def batching(trial: Any) -> runs.Batching:
    """Return how a trial of ``wnrl.study`` can be trained together with others."""
    told = of_trial(trial)
    try:
        cohort = _cohort([told], "cpu")
    except UsageError as error:
        return runs.Batching(refusal=str(error))
    widths = (*told.config.net_arch, getattr(told.config, "lstm_hidden_size", 0))
    batching = runs.Batching(pays=max(widths) <= cohort.measured_width)
    if told.device in ("auto", "cpu"):
        return batching
    fit = members_that_fit(cohort.bytes, None, runs.resolve_device(told.device))
    return replace(batching, members=max(1, fit))


def train_batch(
    trials: Sequence[Any], folders: Sequence[Path], progress: Callable[[float], None]
) -> list[dict[str, Any]]:
    """Train the agents of trials with one ``batch_key`` as a cohort, or go on with them."""
    told = [of_trial(trial) for trial in trials]
    first = told[0]
    device = runs.resolve_device("cpu" if first.device == "auto" else first.device)
    torch.set_num_threads(1)

    def build(places: Sequence[int]) -> CohortRun:
        cohort = _cohort([told[place] for place in places], device)
        machine, identity = {"device": str(device), "threads": 1}, {"task": first.env_id}
        return CohortRun(cohort, first.algo, _plan(told[places[0]]), machine, identity)

    values = [settings.to_json() for settings in told]
    return runs.carry_out_batch(folders, values, build, MEANING, FILES, OF_STUDY, progress)


def _cohort(members: Sequence[Settings], device: torch.device | str) -> Cohort:
    """Return a cohort whose members have these settings; UsageError for what it does not have."""
    cohort = COHORTS[check_choice("algo of a population", members[0].algo, COHORTS)]
    configs = [cohort.member(_of_cohort(settings)) for settings in members]
    return cohort(tensor_envs.make(members[0].env_id), configs, device=device)


def _of_cohort(settings: Settings) -> dict[str, Any]:
    """Return the settings that an algorithm of ``wnrl.population`` is asked about."""
    return {name: getattr(settings, name) for name in ASKED} | asdict(settings.config)


def train_agent(
    folder: Path, settings: Settings, options: runs.Options, *reports: Callable[..., None]
) -> dict[str, Any]:
    """Train, save and evaluate one agent, or return the result of a run that was finished.

    Args:
        folder: The run's.
        settings: From ``checked``.
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
            row, config, factory = AGENTS[settings.algo], settings.config, factory_of(settings)
            env = stack.enter_context(closing(_environments(settings, factory)))
            small = is_small(env.observation_space, config.policy_arguments())
            device = choose_device(settings.device, small)
            threads = choose_threads(settings.threads, small)
            torch.set_num_threads(threads)
            model = row.build(config, env, settings.norm, settings.seed, device)
            if settings.compile and not row.compiled:
                print(f"--compile: nothing of {settings.algo} is compiled", file=sys.stderr)
            machine, identity = {"device": device, "threads": threads}, {"task": settings.env_id}
            compiled = row.compiled if settings.compile else ()
            drawn = factory.drawn() if settings.film else None
            given = (_plan(settings), model, factory, machine, identity)
            return AgentRun(*given, compiled, config.frame_stack, drawn)

        return runs.carry_out(folder, settings.to_json(), build, MEANING, FILES, options, *reports)


def load_run(
    folder: Path, which: str = "last", device: torch.device | str = "cpu"
) -> tuple[Model, Path | None, Settings]:
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
    told = runs.read_config(folder, "algo")
    if not (told and runs.is_finished(folder)):
        raise UsageError(f"run_dir {folder} is no folder of a finished run")
    settings = replace(Settings.from_json(told), subprocesses=False)
    check_choice("norm", settings.norm, NORMS)
    result, path = runs.read_result(folder), runs.checked_file(folder, prefix + MODEL)
    config: Any = settings.config
    scaled = config.normalize != "none"
    statistics = runs.checked_file(folder, prefix + STATISTICS) if scaled else None
    if hasattr(config, "buffer_size"):  # it only acts
        config = replace(config, buffer_size=config.batch_size)
    with closing(_environments(settings, factory_of(settings))) as env:
        model = AGENTS[settings.algo].build(config, env, settings.norm, settings.seed, device)
    try:
        with warnings.catch_warnings():  # torch's, of other pickles
            warnings.simplefilter("ignore")
            model.set_parameters(str(path), device=device)
    except Exception as error:  # zipfile's, pickle's, torch's and SB3's own
        reason = first_line(error).partition(" In PyTorch")[0]  # which tells how to run its code
        raise UsageError(f"{path} holds another agent: {reason}") from error
    with runs.reading(folder / runs.RESULT):
        step = int(result["steps" if which == "last" else "best_step"])
    set_step(model, step, config.total_timesteps)
    return model, statistics, settings


def _plan(settings: Settings) -> Plan:
    told = settings.to_json()
    return Plan(**{field.name: told[field.name] for field in fields(Plan)})


def factory_of(settings: Settings) -> envs.EnvFactory:
    """Return what makes the environments of a run, for its settings."""
    limit, arguments = settings.max_episode_steps, settings.env_kwargs
    return envs.factory(settings.env_id, max_episode_steps=limit, env_kwargs=arguments)


def _environments(settings: Settings, factory: envs.EnvFactory) -> VecEnv:
    config, seed = settings.config, first_env_seed(settings.seed)
    seen, apart = (config.normalize, config.gamma, config.frame_stack), settings.subprocesses
    return vectorize(factory, config.n_envs, seed, *seen, subprocesses=apart)
