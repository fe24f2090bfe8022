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
from dataclasses import dataclass, field
from typing import Annotated, Any

from agents.settings import ENVIRONMENT
from scripts import _cli
from wnrl.errors import UsageError
from wnrl.limits import Frames, Limited, Seed, Whole, one_of


@dataclass(frozen=True, kw_only=True)
class Args(Limited):
    """Which agent, and how it is evaluated."""

    run_dir: Path | None = None
    """A run folder of train_agent.py."""
    which: Annotated[str, one_of(("last", "best"))] = "last"
    """Of a run folder: last, the agent after training, or best, on its learning curve."""
    model: Path | None = None
    """A zip that SB3's model.save wrote, instead of a run folder; reading it runs code from it."""
    env_id: str | None = None
    """Environment for --model: an id of Gymnasium's registry, ours included, or module:Env-v0."""
    env_kwargs: dict[str, bool | int | float | str] = field(default_factory=dict)
    """Its arguments: --env-kwargs continuous True gravity -5."""
    max_episode_steps: int | None = None
    """Steps after which its episodes are cut, instead of its own limit."""
    frame_stack: Frames | None = None
    """Observations that are stacked to one; 4 of an Atari game, else 1, if not given."""
    statistics: Path | None = None
    """Statistics of observations for --model: our vecnormalize.npz, which is found beside it, or a
    .pkl of SB3's VecNormalize.save; reading the latter runs code from it."""
    episodes: Whole = 20
    """Episodes to play."""
    stochastic: bool = False
    """Draw actions as in training; otherwise the most likely ones are taken. TD3 and DDPG draw
    none."""
    seed: Seed = 0
    """Of starts and draws; a run's own seed plays the episodes of its final_return again."""
    device: str = "cpu"
    """auto, cpu, cuda or cuda:<k>; a few environments are fastest on the CPU."""
    record: Path | None = None
    """Also film one more episode: a .gif, or an .mp4 with wnrl[video]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.run_dir is None) == (self.model is None):
            raise UsageError("give either --run-dir or --model")
        if self.model is not None and self.env_id is None:
            raise UsageError("--model needs --env-id: a zip does not say where its agent acts")
        for name in (*ENVIRONMENT, "statistics"):
            if getattr(self, name) not in (None, {}) and self.model is None:
                flag = name.replace("_", "-")
                raise UsageError(f"--{flag} goes with --model; a run folder knows its own")
        if self.record is not None:
            from wnrl.rl.recording import check_film

            check_film(self.record)


if __name__ == "__main__":
    _cli.begin(Args, __doc__)  # before torch is imported

import numpy as np
import torch

from agents.subject import Subject, told_of_pickles
from wnrl.rl.environments import FINAL_STARTS, first_env_seed, told
from wnrl.rl.evaluation import evaluate
from wnrl.rl.hardware import choose_threads, has_images
from wnrl.rl.recording import film, write_film
from wnrl.rl.run import AT_ONCE
from wnrl.runs import resolve_device, seed_everything
from wnrl.study.stats import LEAST, mean_interval


def evaluated(args: Args) -> dict[str, Any]:
    """Play the episodes, film one if asked to, and return the result.

    Raises:
        UsageError: Something in ``args`` cannot be used.
        NonFiniteError: What the agent or the environment gives is not finite.
    """
    device = resolve_device(args.device)
    if args.model is None:
        assert args.run_dir is not None
        agent = Subject.of_run(args.run_dir, args.which, device)
    else:
        agent = Subject.of_zip(args.model, vars(args), args.statistics, device)
    model, env_id = agent.model, str(agent.environment["env_id"])
    torch.set_num_threads(choose_threads(None, small=not has_images(model.observation_space)))
    starts = first_env_seed(args.seed) + FINAL_STARTS
    if args.record:  # which is refused before anything is played
        agent.environments(1, "rgb_array").close()
    with closing(agent.environments(min(args.episodes, AT_ONCE))) as env:
        seed_everything(args.seed)
        model.action_space.seed(args.seed)  # DQN draws random actions from it
        returns, lengths = evaluate(model, env, args.episodes, starts, not args.stochastic)
    if args.record:
        with closing(agent.environments(1, "rgb_array")) as env, told("drawn"):
            frames = film(model, env, starts, not args.stochastic)
            fps: Any = env.unwrapped.metadata.get("render_fps")
            write_film(args.record, frames, fps or 30)
    if agent.statistics is None and args.model is not None:
        print(f"statistics of observations: {told_of_pickles(args.model, env_id)}", file=sys.stderr)
    # Of few episodes, or of equal ones, there is no interval.
    differ = len(returns) >= LEAST and min(returns) < max(returns)
    return {
        **agent.about,
        "statistics": str(agent.statistics) if agent.statistics else None,
        "env_id": env_id,
        "steps": model.num_timesteps,
        "seed": args.seed,
        "stochastic": args.stochastic,
        "episodes": len(returns),
        "mean_return": float(np.mean(returns)),
        "interval95": [*map(float, mean_interval(returns))] if differ else None,
        "mean_length": float(np.mean(lengths)),
        "returns": returns,
        **({"record": str(args.record)} if args.record else {}),
    }


def main(args: Args) -> None:
    """Print the result."""
    print(json.dumps(evaluated(args), allow_nan=False))


if __name__ == "__main__":
    _cli.run(main, Args, description=__doc__)
