"""Train one agent with one normalisation, and evaluate it.

    python scripts/train_agent.py --algo ppo --env-id CartPole-v1 --norm weight --seed 0

Hyperparameters come from the preset of the algorithm and environment; each is a flag as well.
With ``--resume`` a run that was stopped goes on from its last checkpoint, on the CPU with the same
result as if it had not been stopped, and a finished one goes on to a larger ``--total-timesteps``;
``--run-dir <folder> --resume`` is enough, for what is not given is what the run has.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts._interrupt import leave_at_ctrl_c

if __name__ == "__main__":
    leave_at_ctrl_c()  # until _cli.run catches it

import argparse
import re
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Generic, TypeVar, cast

import torch
import tyro
from gymnasium import spaces
from tqdm import tqdm

import envs
from agents import AGENTS
from scripts._cli import refused, run
from scripts._resume import before, check_intention, extends, opened
from wnrl import NORMS, tags
from wnrl.errors import UsageError, check_choice, check_positive
from wnrl.rl.checkpoint import CHECKPOINT
from wnrl.rl.compiling import CompileUpdates
from wnrl.rl.environments import first_env_seed, vectorize
from wnrl.rl.hardware import choose_device, choose_threads, is_small
from wnrl.rl.session import Plan, Session
from wnrl.rl.training import Progress, end_logs, log_to, save
from wnrl.runs import is_finished, reopen_run, resolve_device
from wnrl.runs.interrupts import Stopped

ConfigT = TypeVar("ConfigT")
METRICS = ((tags.FINAL_RETURN, "final_return"), (tags.STEPS_PER_SECOND, "steps_per_second"))
# What does not decide what the run does.
NOT_SETTINGS = ("run_dir", "resume", "checkpoint_minutes", "keep_checkpoint", "config")


@dataclass(frozen=True, kw_only=True)
class Args(Generic[ConfigT]):
    """One run. ``Args.of`` fills ``config`` with the preset."""

    algo: str = "ppo"
    """Algorithm: a key of agents.AGENTS, such as ppo, dqn, sac or recurrent_ppo."""
    env_id: str = "CartPole-v1"
    """Environment: an id of Gymnasium's registry, ours included, or module:Env-v0."""
    variant: str | None = None
    """A published recipe on top of the preset, such as salimans2016 for dqn."""
    norm: str = "weight"
    """Normalisation: none, weight, batch, layer, ...; a key of wnrl.NORMS."""
    seed: int = 0
    """Seeds the network, the actions and the environments."""
    device: str = "auto"
    """auto (a GPU where there is one and the network is not small), cpu, cuda or cuda:<k>."""
    run_dir: Path | None = None
    """The run's folder; runs/single/<task>/<algo>/<norm>/seed<k> unless said otherwise."""
    resume: bool = False
    """Go on where the run in the folder was stopped, or to more steps; begins where it is empty, if
    --algo or --env-id says with what. Flags that are not given mean what that run has."""
    checkpoint_minutes: float = 10.0
    """Time between the checkpoints for --resume; longer where they take long to write."""
    keep_checkpoint: bool = True
    """Leave one in a finished run too, which can then be extended; it has the replay buffer."""
    eval_episodes: int = 20
    """Episodes of the evaluation after training."""
    eval_points: int = 20
    """Evaluations during training, for the learning curve."""
    eval_point_episodes: int = 5
    """Episodes of each of them."""
    threads: int | None = None
    """CPU threads of torch; one for a small network, a few for a larger one if not given."""
    compile: bool = False
    """Compile the networks for the updates; CUDA graphs on a GPU."""
    config: tyro.conf.OmitArgPrefixes[ConfigT]
    """Hyperparameters, with SB3's names; the defaults are those of the preset, or of the run that
    goes on."""

    @classmethod
    def of(
        cls,
        algo: str = "ppo",
        env_id: str | None = None,
        variant: str | None = None,
        **others: Any,
    ) -> "Args[Any]":
        """Arguments with the preset of ``algo`` and ``env_id``, unless ``config`` is given.

        Without ``env_id`` it is the first one that the algorithm has a preset for.

        Raises:
            UsageError: no such algorithm or variant.
        """
        check_choice("algo", algo, AGENTS)
        env_id = env_id or next(iter(AGENTS[algo].presets))
        others.setdefault("config", AGENTS[algo].preset(env_id, variant))
        return cls(algo=algo, env_id=env_id, variant=variant, **others)

    def __post_init__(self) -> None:
        check_choice("algo", self.algo, AGENTS)
        check_choice("norm", self.norm, NORMS)
        check_positive(
            eval_episodes=self.eval_episodes,
            eval_points=self.eval_points,
            eval_point_episodes=self.eval_point_episodes,
        )
        if self.threads is not None:
            check_positive(threads=self.threads)
        if not self.checkpoint_minutes >= 0:
            raise UsageError(
                f"checkpoint_minutes must be zero or above, got {self.checkpoint_minutes}"
            )
        if not 0 <= self.seed < 2**31:
            raise UsageError(f"seed must be from 0 to 2**31 - 1, got {self.seed}")

    @property
    def folder(self) -> Path:
        """The run's folder."""
        task = Path("runs", "single", re.sub("[/:]", "_", self.env_id))
        return self.run_dir or task / self.algo / self.norm / f"seed{self.seed}"

    @property
    def plan(self) -> Plan:
        """How long the run trains, and when it evaluates and saves."""
        names = [field.name for field in fields(Plan) if field.name != "total_timesteps"]
        steps = cast(Any, self.config).total_timesteps
        return Plan(total_timesteps=steps, **{name: getattr(self, name) for name in names})

    def settled(self, space: spaces.Space[Any]) -> "Args[ConfigT]":
        """With a device and a number of threads that suit the network for ``space``."""
        small = is_small(space, cast(Any, self.config).policy_arguments())
        device, remark = choose_device(self.device, small)
        if remark:
            print(remark, file=sys.stderr)
        return replace(self, device=device, threads=choose_threads(self.threads, small))

    def settled_as(self, config: dict[str, Any]) -> "Args[ConfigT]":
        """With the device and the number of threads of an earlier run, where none is given."""
        device = config.get("device", "auto") if self.device == "auto" else self.device
        threads = config.get("threads") if self.threads is None else self.threads
        return replace(self, device=device, threads=threads)

    def as_config(self) -> dict[str, Any]:
        """Every value that decides what the run does."""
        flat = {k: v for k, v in asdict(self).items() if k not in NOT_SETTINGS}
        if self.device != "auto":
            flat["device"] = str(resolve_device(self.device))
        hyperparameters: Any = self.config
        return {**flat, **asdict(hyperparameters)}


def train(
    args: Args[Any],
    progress: Progress = lambda fraction: None,
    accepted: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Trains, evaluates and saves one agent, or reads the result of a run that was finished.

    Args:
        args: what to do.
        progress: called with the finished fraction, from 0 to 1, a few times a second.
        accepted: called once, when nothing in ``args`` can be refused any more.

    Returns:
        What ``result.json`` holds. ``final_return`` is the mean return of the agent as it is after
        training, ``best_return`` that of the one that was best on the learning curve, played
        again; ``window_return`` is the mean of the curve's last tenth. ``steps_per_second`` is
        environment steps over the time of rollouts and updates; ``wall_time`` has everything,
        earlier parts of a resumed run included, in seconds.

    Raises:
        UsageError: the run cannot be done; its folder is as it was.
        Stopped: a signal came; a checkpoint was written.
    """
    started = time.perf_counter()
    check_intention(args)
    if is_finished(args.folder) and not extends(args):  # nothing needs to be made
        settings = args.settled_as(before(args)).as_config()
        with reopen_run(args.folder, settings, ("extended_from",) if args.resume else ()) as run:
            accepted()
            return run.result()
    config = args.config
    factory = envs.factory(args.env_id)
    with closing(
        vectorize(factory, config.n_envs, first_env_seed(args.seed), config.normalize, config.gamma)
    ) as env:
        args = args.settled(env.observation_space)
        torch.set_num_threads(cast(int, args.threads))
        model = AGENTS[args.algo].build(config, env, args.norm, args.seed, args.device)
        with opened(args, model) as (run, checkpoint):
            accepted()
            if run.finished:  # by another process, while this one was waiting for the folder
                return run.result()
            log_to(model, run.path)
            row = AGENTS[args.algo]
            compiling = CompileUpdates(row.compiled, row.not_compiled) if args.compile else None
            session = Session(args.plan, model, factory, run.path, checkpoint, started, compiling)
            result = session.learn(progress)
            if result["status"] == "finished":
                save(model, run.path)
                result |= session.final_evaluation()
            metrics = {tag: result[key] for tag, key in METRICS if key in result}
            end_logs(model, {"task": args.env_id, **run.config}, metrics)
            result["wall_time"] = session.wall_time
            run.write_result(result)
            if not args.keep_checkpoint:
                (run.path / CHECKPOINT).unlink(missing_ok=True)
            return result


def main(args: Args[Any]) -> int:
    """Prints the folder of a run that can be done, trains, prints the result.

    Returns:
        The exit code: 1 if the run failed, 130 or 143 if a signal stopped it.
    """
    with tqdm(total=100, unit="%", leave=False, delay=1, disable=None) as bar:

        def show(fraction: float) -> None:
            bar.update(int(100 * fraction) - bar.n)

        try:
            result = train(args, show, lambda: print(args.folder, flush=True))
        except Stopped as stopped:
            bar.close()
            print(stopped.message, file=sys.stderr)
            return cast(int, stopped.code)
    if result["status"] == "failed":
        print(f"failed: {result['reason']}")
        return 1
    print(
        f"final_return {result['final_return']:.1f} over {len(result['eval_returns'])} episodes, "
        f"best_return {result['best_return']:.1f} at step {result['best_step']}, "
        f"{result['steps_per_second']:.0f} steps/s"
    )
    return 0


def preset_of(argv: Sequence[str]) -> Args[Any]:
    """What the flags that are not given mean.

    With ``--resume`` it is what the run in the folder has, else the preset for the algorithm and
    environment that are given.

    Raises:
        UsageError: there is no such variant, or the folder holds no run of an agent, and nothing
            says which one to begin.
    """
    scan = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("algo", "env_id", "variant", "norm", "seed", "run_dir"):
        scan.add_argument(f"--{name.replace('_', '-')}", f"--{name}", nargs="?", const="")
    scan.add_argument("--help", "-h", action="store_true")
    scan.add_argument("--resume", action=argparse.BooleanOptionalAction)
    found, _ = scan.parse_known_args(argv)
    algo = found.algo if found.algo in AGENTS else "ppo"  # which Args refuses
    preset = Args.of(algo, found.env_id, found.variant or None)
    if not found.resume:
        return preset
    seed = int(found.seed) if found.seed and found.seed.isdecimal() else 0
    folder = Path(found.run_dir) if found.run_dir else None
    there = replace(preset, norm=found.norm or preset.norm, seed=seed, run_dir=folder)
    theirs = before(there)
    names_none = found.algo is None and found.env_id is None and found.run_dir != ""
    if names_none and not theirs and not found.help:
        raise UsageError(
            f"run_dir {there.folder} holds no run to go on with; to begin one there, say which: "
            "--algo or --env-id"
        )
    return recalled(preset, theirs) if found.algo in (None, theirs.get("algo")) else preset


def recalled(preset: Args[Any], settings: dict[str, Any]) -> Args[Any]:
    """``preset`` with the settings of an earlier run, where they are those of an agent."""
    if settings.get("algo") not in AGENTS:
        return preset
    kind = AGENTS[settings["algo"]].config
    own = {f.name: settings[f.name] for f in fields(kind) if f.name in settings}
    ours = {f.name: settings[f.name] for f in fields(Args) if f.name in settings}
    del ours["device"], ours["threads"]  # chosen again: it may go on elsewhere
    return replace(preset, config=kind(**own), **ours)


def cli(argv: Sequence[str]) -> None:
    """Runs ``main`` with flags for the hyperparameters of the chosen algorithm."""
    try:
        preset = preset_of(argv)
    except UsageError as error:  # no such variant or norm, or no agent in the folder
        sys.exit(refused(error))
    args_type = cast(Any, Args)[type(preset.config)]
    run(main, args_type, description=__doc__, default=preset, argv=argv)


if __name__ == "__main__":
    cli(sys.argv[1:])
