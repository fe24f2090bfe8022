"""Train one agent with one normalisation, and evaluate it.

    python scripts/train_agent.py --algo ppo --env-id CartPole-v1 --norm weight --seed 0

Hyperparameters come from the preset of the algorithm and environment; each is a flag as well.
"""

import argparse
import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import tyro
from tqdm import tqdm

import envs
from agents import AGENTS, vectorize, vectorize_for_evaluation
from agents.common import CURVE_STARTS, FINAL_STARTS, first_env_seed
from agents.evaluation import EvaluateInTraining, evaluate
from agents.training import Model, Progress, ReportProgress, end_logs, learn, log_to, save
from envs import EnvFactory
from scripts._cli import run
from wnrl import NORMS, tags
from wnrl.errors import NonFiniteError, UsageError, check_choice, check_positive
from wnrl.runs import is_finished, open_run, resolve_device

ConfigT = TypeVar("ConfigT")
METRICS = ((tags.FINAL_RETURN, "final_return"), (tags.STEPS_PER_SECOND, "steps_per_second"))


@dataclass(frozen=True, kw_only=True)
class Args(Generic[ConfigT]):
    """One run. ``Args.of`` fills ``config`` with the preset."""

    algo: str = "ppo"
    """Algorithm: ppo or recurrent_ppo."""
    env_id: str = "CartPole-v1"
    """Environment: an id of Gymnasium's registry, ours included, or module:Env-v0."""
    norm: str = "weight"
    """Normalisation: none, weight, batch, layer, ...; a key of wnrl.NORMS."""
    seed: int = 0
    """Seeds the network, the actions and the environments."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda or cuda:<k>."""
    run_dir: Path | None = None
    """The run's folder; runs/single/<task>/<algo>/<norm>/seed<k> unless said otherwise."""
    eval_episodes: int = 20
    """Episodes of the evaluation after training."""
    eval_points: int = 20
    """Evaluations during training, for the learning curve."""
    eval_point_episodes: int = 5
    """Episodes of each of them."""
    threads: int = 1
    """CPU threads of torch; for small networks one is the fastest."""
    config: tyro.conf.OmitArgPrefixes[ConfigT]

    @classmethod
    def of(cls, algo: str = "ppo", env_id: str | None = None, **others: Any) -> "Args[Any]":
        """Arguments with the preset of ``algo`` and ``env_id``, unless ``config`` is given.

        Without ``env_id`` it is the first one that the algorithm has a preset for.

        Raises:
            UsageError: no such algorithm.
        """
        check_choice("algo", algo, AGENTS)
        env_id = env_id or next(iter(AGENTS[algo].presets))
        others.setdefault("config", AGENTS[algo].preset(env_id))
        return cls(algo=algo, env_id=env_id, **others)

    def __post_init__(self) -> None:
        check_choice("algo", self.algo, AGENTS)
        check_choice("norm", self.norm, NORMS)
        check_positive(
            eval_episodes=self.eval_episodes,
            eval_points=self.eval_points,
            eval_point_episodes=self.eval_point_episodes,
            threads=self.threads,
        )
        if not 0 <= self.seed < 2**31:
            raise UsageError(f"seed must be from 0 to 2**31 - 1, got {self.seed}")

    @property
    def folder(self) -> Path:
        """The run's folder."""
        task = Path("runs", "single", re.sub("[/:]", "_", self.env_id))
        return self.run_dir or task / self.algo / self.norm / f"seed{self.seed}"

    def as_config(self) -> dict[str, Any]:
        """Every value that decides what the run does."""
        flat = {k: v for k, v in asdict(self).items() if k not in ("run_dir", "config")}
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
        What ``result.json`` holds. ``steps_per_second`` is environment steps over the time of
        rollouts and updates, without evaluations; ``wall_time`` has everything, in seconds.

    Raises:
        UsageError: the run cannot be done; its folder is as it was.
    """
    started = time.perf_counter()
    settings = args.as_config()
    if is_finished(args.folder):  # nothing needs to be made
        with open_run(args.folder, settings) as run:
            accepted()
            return run.result()
    config = args.config
    factory = envs.factory(args.env_id)
    torch.set_num_threads(args.threads)
    with closing(
        vectorize(factory, config.n_envs, first_env_seed(args.seed), config.normalize, config.gamma)
    ) as env:
        model = AGENTS[args.algo].build(config, env, args.norm, args.seed, settings["device"])
        with open_run(args.folder, settings) as run:
            accepted()
            if run.finished:  # by another process, while this one was waiting for the folder
                return run.result()
            log_to(model, run.path)
            result = learn_with_curve(args, model, factory, progress)
            if result["status"] == "finished":
                result |= final_evaluation(args, model, factory)
            if result["status"] == "finished":
                save(model, run.path)
            metrics = {tag: result[key] for tag, key in METRICS if key in result}
            end_logs(model, {"task": args.env_id, **settings}, metrics)
            result["wall_time"] = time.perf_counter() - started
            run.write_result(result)
            return result


def learn_with_curve(
    args: Args[Any], model: Model, factory: EnvFactory, progress: Progress
) -> dict[str, Any]:
    """Trains ``model`` and returns what became of it, with its learning curve."""
    steps = args.config.total_timesteps
    result: dict[str, Any] = {"status": "finished"}
    n_episodes = args.eval_point_episodes
    with closing(vectorize_for_evaluation(factory, n_episodes, model.env)) as env:
        starts = first_env_seed(args.seed) + CURVE_STARTS
        points = EvaluateInTraining(env, args.eval_points, n_episodes, steps, starts)
        started = time.perf_counter()
        try:
            learn(model, steps, points, ReportProgress(progress, steps))
        except NonFiniteError as error:
            result = {"status": "failed", "reason": str(error)}
        seconds = time.perf_counter() - started - points.seconds
    return {
        **result,
        "steps": model.num_timesteps,
        "steps_per_second": model.num_timesteps / seconds,
        "curve": points.curve.as_json(),
        "plain_parts": model.policy.plain_parts,
    }


def final_evaluation(args: Args[Any], model: Model, factory: EnvFactory) -> dict[str, Any]:
    """What the evaluation after training adds to the result."""
    n_envs = min(args.eval_episodes, 20)
    with closing(vectorize_for_evaluation(factory, n_envs, model.env)) as env:
        starts = first_env_seed(args.seed) + FINAL_STARTS
        try:
            returns, _ = evaluate(model, env, args.eval_episodes, starts)
        except NonFiniteError as error:
            return {"status": "failed", "reason": str(error)}
    return {"final_return": float(np.mean(returns)), "eval_returns": returns}


def main(args: Args[Any]) -> int:
    """Prints the folder of a run that can be done, trains, prints the result; 1 if it failed."""
    with tqdm(total=100, unit="%", leave=False, delay=1, disable=None) as bar:

        def show(fraction: float) -> None:
            bar.update(int(100 * fraction) - bar.n)

        result = train(args, show, lambda: print(args.folder, flush=True))
    if result["status"] == "failed":
        print(f"failed: {result['reason']}")
        return 1
    print(
        f"final_return {result['final_return']:.1f} over {len(result['eval_returns'])} episodes, "
        f"{result['steps_per_second']:.0f} steps/s"
    )
    return 0


def preset_of(argv: Sequence[str]) -> Args[Any]:
    """What the flags that are not given mean, for the algorithm and environment that are."""
    scan = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    scan.add_argument("--algo", default="ppo")
    scan.add_argument("--env-id", "--env_id")
    found, _ = scan.parse_known_args(argv)
    algo = found.algo if found.algo in AGENTS else "ppo"  # a wrong word is refused by Args
    return Args.of(algo, found.env_id)


def cli(argv: Sequence[str]) -> None:
    """Runs ``main`` with flags for the hyperparameters of the chosen algorithm."""
    preset = preset_of(argv)
    args_type = cast(Any, Args)[type(preset.config)]
    run(main, args_type, description=__doc__, default=preset, argv=argv)


if __name__ == "__main__":
    cli(sys.argv[1:])
