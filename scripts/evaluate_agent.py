"""Evaluate a trained agent: a run folder of train_agent.py, or any zip that SB3 saved.

    python scripts/evaluate_agent.py --run-dir runs/single/CartPole-v1/ppo/weight/seed0
    python scripts/evaluate_agent.py --model ppo.zip --env-id CartPole-v1 --record cartpole.gif

The result is one line of JSON: the mean return with its 95 % bootstrap interval over episodes,
which says nothing of other seeds of training. SB3's files hold pickled objects: read only your own.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts._interrupt import leave_at_ctrl_c

if __name__ == "__main__":
    leave_at_ctrl_c()  # until _cli.run catches it

import json
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

import envs
from agents import AGENTS
from scripts._cli import run
from wnrl.errors import UsageError, check_choice, check_positive
from wnrl.rl.environments import FINAL_STARTS, first_env_seed, vectorize_for_evaluation
from wnrl.rl.evaluation import evaluate
from wnrl.rl.loading import acting_with, check_fits, load_agent, load_statistics
from wnrl.rl.recording import check_film, film, write_film
from wnrl.rl.training import Model
from wnrl.runs import CONFIG, read_json, resolve_device, seed_everything
from wnrl.study.stats import bootstrap_interval

ALGORITHMS = tuple(row.config.algorithm for row in AGENTS.values())
AT_ONCE = 20  # environments
PREFIXES = {"last": "", "best": "best_"}  # of the files of a run folder


@dataclass(frozen=True, kw_only=True)
class Args:
    """Which agent, and how it is evaluated."""

    run_dir: Path | None = None
    """A run folder of train_agent.py."""
    which: str = "last"
    """Of a run folder: last, the agent after training, or best, on its learning curve."""
    model: Path | None = None
    """A zip that SB3's model.save wrote, instead of a run folder."""
    env_id: str | None = None
    """Environment for --model: an id of Gymnasium's registry, ours included, or module:Env-v0."""
    vecnormalize: Path | None = None
    """Statistics of observations for --model; vecnormalize.pkl beside it, where there is one."""
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
        check_positive(episodes=self.episodes)
        check_choice("which", self.which, PREFIXES)
        if (self.run_dir is None) == (self.model is None):
            raise UsageError("give either --run-dir or --model")
        if self.model is not None and self.env_id is None:
            raise UsageError("--model needs --env-id: a zip does not say where its agent acts")
        if self.env_id is not None and self.model is None:
            raise UsageError("--env-id goes with --model; a run folder knows its own")
        if self.vecnormalize is not None and self.model is None:
            raise UsageError("--vecnormalize goes with --model; a run folder has its own")
        if not 0 <= self.seed < 2**31:
            raise UsageError(f"seed must be from 0 to 2**31 - 1, got {self.seed}")
        if self.record is not None:
            check_film(self.record)


@dataclass(frozen=True)
class Subject:
    """What is evaluated."""

    model: Model
    path: Path
    env_id: str
    statistics: Path | None
    """Of observations."""
    about: dict[str, Any]
    """What the result says of it."""

    @classmethod
    def of(cls, args: Args) -> "Subject":
        """What ``args`` name.

        Raises:
            UsageError: it is not there, damaged or incomplete.
        """
        device = resolve_device(args.device)
        if args.model is not None:
            beside = args.model.with_name(args.model.name.replace("model.zip", "vecnormalize.pkl"))
            beside = beside if beside != args.model else args.model.with_name("vecnormalize.pkl")
            statistics = args.vecnormalize or (beside if beside.is_file() else None)
            model = load_agent(args.model, ALGORITHMS, device)
            return cls(model, args.model, str(args.env_id), statistics, {"model": str(args.model)})
        assert args.run_dir is not None
        if not (args.run_dir / CONFIG).is_file():
            raise UsageError(f"run_dir {args.run_dir} is no run folder: it has no {CONFIG}")
        config = read_json(args.run_dir / CONFIG)
        if "algo" not in config:
            raise UsageError(
                f"run_dir {args.run_dir} holds a run of another program: its {CONFIG} has no algo"
            )
        algo = check_choice("algo", config["algo"], AGENTS)
        prefix = PREFIXES[args.which]
        path = args.run_dir / f"{prefix}model.zip"
        if not path.is_file():
            raise UsageError(f"run_dir {args.run_dir} has no {path.name}: it is not finished")
        model = load_agent(path, ALGORITHMS, device)
        policy = next(iter(AGENTS[algo].config.algorithm.policy_aliases.values()))
        if not isinstance(model, acting_with(policy, ALGORITHMS) or ()):
            kind = type(model).__name__
            raise UsageError(f"model {path} holds a {kind}, not the {algo} of its run")
        statistics = args.run_dir / f"{prefix}vecnormalize.pkl" if config["normalize"] else None
        about = {"run_dir": str(args.run_dir), "which": args.which, "algo": algo}
        about |= {"norm": config["norm"], "trained_seed": config["seed"]}
        return cls(model, path, config["env_id"], statistics, about)


def evaluated(args: Args) -> dict[str, Any]:
    """Plays the episodes, films one if asked to, and returns the result.

    Raises:
        UsageError: something in ``args`` cannot be used.
    """
    subject = Subject.of(args)
    model, starts = subject.model, first_env_seed(args.seed) + FINAL_STARTS
    drawn = "rgb_array" if args.record else None
    factory = envs.factory(subject.env_id, drawn)

    def play(n_envs: int) -> Any:
        env = vectorize_for_evaluation(factory, n_envs, None)
        check_fits(model, env, subject.path, subject.env_id)
        return load_statistics(env, subject.statistics) if subject.statistics else env

    with closing(play(min(args.episodes, AT_ONCE))) as env:
        seed_everything(args.seed)
        returns, lengths = evaluate(model, env, args.episodes, starts, not args.stochastic)
    if args.record:
        with closing(play(1)) as env:
            frames = film(model, env, starts, not args.stochastic)
            write_film(args.record, frames, env.metadata.get("render_fps") or 30)
    low, high = bootstrap_interval(returns, np.mean)
    return {
        **subject.about,
        "vecnormalize": str(subject.statistics) if subject.statistics else None,
        "env_id": subject.env_id,
        "steps": model.num_timesteps,
        "seed": args.seed,
        "stochastic": args.stochastic,
        "episodes": len(returns),
        "mean_return": float(np.mean(returns)),
        "interval95": [float(low), float(high)],
        "mean_length": float(np.mean(lengths)),
        "returns": returns,
        **({"record": str(args.record)} if args.record else {}),
    }


def main(args: Args) -> int:
    """Prints the result."""
    print(json.dumps(evaluated(args), allow_nan=False))
    return 0


if __name__ == "__main__":
    run(main, Args, description=__doc__)
