"""Evaluate a trained agent: a run folder of train_agent.py, or any zip that SB3 saved.

    python scripts/evaluate_agent.py --run-dir runs/single/CartPole-v1/ppo/weight/seed0
    python scripts/evaluate_agent.py --model ppo.zip --env-id CartPole-v1 --record cartpole.gif

The result is one line of JSON: the mean return with its 95 % bootstrap interval over episodes,
which says nothing of other seeds of training. Of a run folder, numbers alone are read. SB3's own
files hold pickled objects, and reading them runs code: name with --model, and with --statistics a
.pkl, only your own.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import json
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from scripts import _cli
from wnrl.errors import NonFiniteError, UsageError, check_choice, check_positive


@dataclass(frozen=True, kw_only=True)
class Args:
    """Which agent, and how it is evaluated."""

    run_dir: Path | None = None
    """A run folder of train_agent.py."""
    which: str = "last"
    """Of a run folder: last, the agent after training, or best, on its learning curve."""
    model: Path | None = None
    """A zip that SB3's model.save wrote, instead of a run folder; reading it runs code from it."""
    env_id: str | None = None
    """Environment for --model: an id of Gymnasium's registry, ours included, or module:Env-v0."""
    statistics: Path | None = None
    """Statistics of observations for --model: our vecnormalize.npz, which is found beside it, or a
    .pkl of SB3's VecNormalize.save; reading the latter runs code from it."""
    episodes: int = 20
    """Episodes to play."""
    stochastic: bool = False
    """Draw actions as in training; otherwise the most likely ones are taken."""
    seed: int = 0
    """Of starts and draws; a run's own seed plays the episodes of its final_return again."""
    device: str = "cpu"
    """auto, cpu, cuda or cuda:<k>; a few environments are fastest on the CPU."""
    record: Path | None = None
    """Also film one more episode: a .gif, or an .mp4 with wnrl[video]."""

    def __post_init__(self) -> None:
        from agents.run import PREFIXES
        from wnrl.rl.recording import check_film

        check_positive(episodes=self.episodes)
        check_choice("which", self.which, PREFIXES)
        if (self.run_dir is None) == (self.model is None):
            raise UsageError("give either --run-dir or --model")
        if self.model is not None and self.env_id is None:
            raise UsageError("--model needs --env-id: a zip does not say where its agent acts")
        for flag, value in (("--env-id", self.env_id), ("--statistics", self.statistics)):
            if value is not None and self.model is None:
                raise UsageError(f"{flag} goes with --model; a run folder knows its own")
        if not 0 <= self.seed < 2**31:
            raise UsageError(f"seed must be from 0 to 2**31 - 1, got {self.seed}")
        if self.record is not None:
            check_film(self.record)


if __name__ == "__main__":
    _cli.begin(Args, __doc__)  # before torch is imported

import numpy as np

import envs
from agents import AGENTS
from agents.run import load_run
from wnrl.rl.environments import FINAL_STARTS, first_env_seed, vectorize_for_evaluation
from wnrl.rl.evaluation import evaluate
from wnrl.rl.loading import check_fits, load_agent, load_pickled_statistics
from wnrl.rl.recording import film, write_film
from wnrl.rl.run import AT_ONCE, STATISTICS
from wnrl.rl.statistics import load_statistics
from wnrl.rl.training import Model
from wnrl.runs import resolve_device, seed_everything
from wnrl.study.stats import LEAST, mean_interval


def subject(args: Args) -> tuple[Model, Path, str, Path | None, dict[str, Any]]:
    """Return agent, its path, environment's id, statistics, and what the result says of it.

    Raises:
        UsageError: What ``args`` name is not there, damaged or incomplete.
    """
    device = resolve_device(args.device)
    if args.model is None:
        assert args.run_dir is not None
        model, statistics, settings = load_run(args.run_dir, args.which, device)
        about = {"run_dir": str(args.run_dir), "which": args.which, "algo": settings["algo"]}
        about |= {"norm": settings["norm"], "trained_seed": settings["seed"]}
        return model, args.run_dir, settings["env_id"], statistics, about
    algorithms = [row.config.algorithm for row in AGENTS.values()]
    env_id, path = str(args.env_id), args.model
    model = load_agent(path, algorithms, device)
    about = {"model": str(path)}
    return model, path, env_id, args.statistics or statistics_beside(path), about


def statistics_beside(model: Path) -> Path | None:
    """Return our own file of statistics beside a zip, where there is one."""
    path = model.with_name(model.name.replace("model.zip", STATISTICS))
    return path if path != model and path.is_file() else None


def tell_of_pickles(model: Path, env_id: str) -> None:
    """Say on stderr which statistics of SB3's lie near a zip and are not read."""
    folders = (model.parent, model.parent / env_id)  # the second is rl-baselines3-zoo's
    near = sorted(path for folder in folders for path in folder.glob("*vecnormalize*.pkl"))
    if near:
        told = f"not read, since a pickle runs code: {near[0]}; --statistics {near[0]} reads it"
    else:
        told = f"none are near {model} (*vecnormalize*.pkl); --statistics names others"
    print(f"statistics of observations: {told}", file=sys.stderr)


def evaluated(args: Args) -> dict[str, Any]:
    """Play the episodes, film one if asked to, and return the result.

    Raises:
        UsageError: Something in ``args`` cannot be used.
        NonFiniteError: What the agent or the environment gives is not finite.
    """
    model, path, env_id, statistics, about = subject(args)
    starts = first_env_seed(args.seed) + FINAL_STARTS
    factory = envs.factory(env_id, "rgb_array" if args.record else None)

    def play(n_envs: int) -> Any:
        env = vectorize_for_evaluation(factory, n_envs, None)
        check_fits(model, env, path, env_id)
        if statistics is None:
            return env
        pickled = statistics.suffix == ".pkl"
        return (load_pickled_statistics if pickled else load_statistics)(env, statistics)

    with closing(play(min(args.episodes, AT_ONCE))) as env:
        seed_everything(args.seed)
        returns, lengths = evaluate(model, env, args.episodes, starts, not args.stochastic)
    if args.record:
        with closing(play(1)) as env:
            frames = film(model, env, starts, not args.stochastic)
            write_film(args.record, frames, env.unwrapped.metadata.get("render_fps") or 30)
    if statistics is None and args.model is not None:
        tell_of_pickles(path, env_id)
    interval = None  # of few episodes, or of equal ones, there is none
    if len(returns) >= LEAST and min(returns) < max(returns):
        interval = [float(end) for end in mean_interval(returns)]
    return {
        **about,
        "statistics": str(statistics) if statistics else None,
        "env_id": env_id,
        "steps": model.num_timesteps,
        "seed": args.seed,
        "stochastic": args.stochastic,
        "episodes": len(returns),
        "mean_return": float(np.mean(returns)),
        "interval95": interval,
        "mean_length": float(np.mean(lengths)),
        "returns": returns,
        **({"record": str(args.record)} if args.record else {}),
    }


def main(args: Args) -> int:
    """Print the result; return 1 where a number is not finite."""
    try:
        print(json.dumps(evaluated(args), allow_nan=False))
    except NonFiniteError as error:
        print(f"failed: {error}")
        return 1
    return 0


if __name__ == "__main__":
    _cli.run(main, Args, description=__doc__)
