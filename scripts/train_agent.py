"""Train one agent with one normalisation, and evaluate it.

    python scripts/train_agent.py --algo ppo --env-id CartPole-v1 --norm weight --seed 0

Hyperparameters come from the preset of the algorithm and environment; each is a flag as well.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import tyro
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import TensorBoardOutputFormat
from stable_baselines3.common.vec_env import VecEnv

import envs
from agents import AGENTS, log_to, vectorize, vectorize_for_evaluation
from agents.evaluation import EvaluateInTraining, evaluate
from scripts._cli import run
from wnrl import NORMS, tags
from wnrl.errors import NonFiniteError, UsageError, check_choice, check_positive
from wnrl.runs import Run, open_run, resolve_device
from wnrl.sb3 import LogNorms, StopAtNonFinite, check_finite

ConfigT = TypeVar("ConfigT")
Progress = Callable[[float], None]
EVAL_SEED, FINAL_SEED = 10_000, 20_000  # added to the seed: starts that training has not seen


@dataclass(frozen=True, kw_only=True)
class Args(Generic[ConfigT]):
    """One run. ``Args.of`` fills ``config`` with the preset."""

    algo: str = "ppo"
    """Algorithm: ppo or recurrent_ppo."""
    env_id: str = "CartPole-v1"
    """Environment: an id of Gymnasium's registry, ours included."""
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
        task = Path("runs", "single", self.env_id.replace("/", "_"))
        return self.run_dir or task / self.algo / self.norm / f"seed{self.seed}"

    def as_config(self) -> dict[str, Any]:
        """Every value that decides what the run does."""
        flat = {k: v for k, v in asdict(self).items() if k not in ("run_dir", "config")}
        flat["device"] = str(resolve_device(self.device))
        hyperparameters: Any = self.config
        return {**flat, **asdict(hyperparameters)}


def train(args: Args[Any], progress: Progress = lambda fraction: None) -> dict[str, Any]:
    """Trains, evaluates and saves one agent, or reads the result of a run that was finished.

    Args:
        args: what to do.
        progress: called with the finished fraction, from 0 to 1, a few times a second.

    Returns:
        What ``result.json`` holds.

    Raises:
        UsageError: the run cannot be done; its folder is as it was.
    """
    config = args.as_config()
    factory = envs.factory(args.env_id)
    torch.set_num_threads(args.threads)
    c = args.config
    env = vectorize(factory, c.n_envs, args.seed, c.normalize, c.gamma)
    model = AGENTS[args.algo].build(c, env, args.norm, args.seed, config["device"])
    with open_run(args.folder, config) as run:
        if run.finished:
            return run.result()
        log_to(model, run.path)
        seen_starts = vectorize_for_evaluation(factory, args.eval_point_episodes, 0, env)
        points = EvaluateInTraining(
            seen_starts, args.eval_points, args.eval_point_episodes, c.total_timesteps,
            args.seed + EVAL_SEED,
        )  # fmt: skip
        start = time.perf_counter()
        result: dict[str, Any] = {"status": "finished"}
        try:
            learn(model, c.total_timesteps, [points, Report(progress, c.total_timesteps)])
        except NonFiniteError as error:
            result = {"status": "failed", "reason": str(error)}
        seconds = time.perf_counter() - start - points.seconds
        result |= {"steps": model.num_timesteps, "steps_per_second": model.num_timesteps / seconds}
        result |= {"curve": points.curve.as_json(), "plain_parts": model.policy.plain_parts}
        if result["status"] == "finished":
            final = vectorize_for_evaluation(factory, min(args.eval_episodes, 20), 0, env)
            returns, _ = evaluate(model, final, args.eval_episodes, args.seed + FINAL_SEED)
            result |= {"final_return": float(np.mean(returns)), "eval_returns": returns}
            save(run, model, env)
        write_logs(model, config, result)
        result["wall_time"] = time.perf_counter() - start
        run.write_result(result)
        return result


def learn(model: BaseAlgorithm, total_timesteps: int, callbacks: list[BaseCallback]) -> None:
    """Trains ``model``, and stops with NonFiniteError where a loss or a parameter is NaN."""
    try:
        model.learn(total_timesteps, [StopAtNonFinite(), *callbacks, LogNorms()])
    except ValueError:
        check_finite(model)  # torch's distributions refuse a NaN before any loss is logged
        raise


class Report(BaseCallback):
    """Tells ``progress`` how far training is, at most five times a second."""

    def __init__(self, progress: Progress, total_timesteps: int) -> None:
        super().__init__()
        self.progress, self.total = progress, total_timesteps
        self.last = 0.0

    def _on_step(self) -> bool:
        now = time.monotonic()
        if now - self.last > 0.2:
            self.last = now
            self.progress(min(1.0, self.num_timesteps / self.total))
        return True

    def _on_training_end(self) -> None:
        self.progress(1.0)


def save(run: Run, model: BaseAlgorithm, env: VecEnv) -> None:
    """Writes ``model.zip`` and, where observations are scaled, ``vecnormalize.pkl``."""
    scratch = run.path / "model.tmp.zip"
    model.save(scratch)
    scratch.replace(run.path / "model.zip")
    normalizer = model.get_vec_normalize_env()
    if normalizer is not None:
        scratch = run.path / "vecnormalize.pkl.tmp"
        normalizer.save(str(scratch))
        scratch.replace(run.path / "vecnormalize.pkl")


def write_logs(model: BaseAlgorithm, config: dict[str, Any], result: dict[str, Any]) -> None:
    """Ends the event file with the row of the HParams tab."""
    events = cast(TensorBoardOutputFormat, model.logger.output_formats[0])
    metrics = {tags.STEPS_PER_SECOND: result["steps_per_second"]}
    if "final_return" in result:
        metrics[tags.FINAL_RETURN] = result["final_return"]
    tags.write_hparams(events.writer, config, metrics, result["steps"])
    model.logger.close()


def main(args: Args[Any]) -> int:
    """Trains with a progress bar on stderr; 1 if the run failed."""
    from tqdm import tqdm

    print(args.folder, flush=True)
    with tqdm(total=100, unit="%", file=sys.stderr, leave=False, delay=1) as bar:

        def show(fraction: float) -> None:
            bar.update(int(100 * fraction) - bar.n)

        result = train(args, show)
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
