"""Train one agent with one normalisation, and evaluate it.

    python scripts/train_agent.py --algo ppo --env-id CartPole-v1 --norm weight --seed 0

Hyperparameters come from the preset of the algorithm and environment; each is a flag as well.
With ``--resume`` a run that was stopped goes on from its last checkpoint, on the CPU with the same
result as if it had not been stopped, and a finished one goes on to a larger ``--total-timesteps``;
``--run-dir <folder> --resume`` is enough, for what is not given, but for ``--device``, is what the
run has.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts import _cli

# From here on Ctrl-C and a package that is missing are taken care of.
# isort: split
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from agents import defaults
from agents.config import Config
from agents.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Args(Settings):
    """One run; ``preset_of`` fills in what is not given."""

    config_file: Annotated[Path | None, tyro.conf.arg(name="config")] = None
    """Take the defaults from a run's config.json, or from a YAML file of rl-baselines3-zoo."""
    run_dir: Path | None = None
    """The run's folder; runs/single/<task>/<algo>/<norm>/seed<k> unless said otherwise."""
    resume: bool = False
    """Go on where the run in the folder was stopped, or to more steps; begins where it is empty, if
    --algo or --env-id says with what. Flags that are not given, but for --device,
    mean what that run has."""
    checkpoint_minutes: float = 10.0
    """Time between the checkpoints for --resume; longer where they take long to write."""
    keep_checkpoint: bool = True
    """Leave one in a finished run too, which can then be extended; it has the replay buffer."""
    config: tyro.conf.OmitArgPrefixes[Config]
    """Hyperparameters, with SB3's names; the defaults are those of the preset, of --config, or of
    the run that goes on."""

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.run_dir or self.usual_folder


def train(args: Args, *reports: Callable[..., None]) -> dict[str, Any]:
    """Do the run; ``reports`` are ``agents.run.train_agent``'s."""
    from agents.run import checked, train_agent
    from wnrl.runs import Options

    options = Options(args.resume, args.checkpoint_minutes, args.keep_checkpoint)
    return train_agent(args.folder, checked(args), options, *reports)


def begin(args: Args) -> None:
    """Print the folder, and on stderr where the steps are not those that were asked for."""
    print(args.folder, flush=True)
    asked, update = args.config.total_timesteps, args.config.steps_of_an_update
    if asked % update:
        steps = asked + -asked % update
        apart = f"updates are {update} steps apart"
        print(f"total_timesteps {asked} is rounded up to {steps}: {apart}", file=sys.stderr)


def main(args: Args) -> int:
    """Print the run folder, train, print the result; return 1 if the run failed."""
    with _cli.progress_bar() as progress:
        result = train(args, progress, lambda: begin(args))
    from wnrl.runs import RESULT, reading

    if result["status"] == "failed":
        print(f"failed: {result['reason']}")
        return 1
    with reading(args.folder / RESULT):
        print(
            f"final_return {result['final_return']:.1f} over {len(result['eval_returns'])} "
            f"episodes, best_return {result['best_return']:.1f} at step {result['best_step']}, "
            f"{result['steps_per_second']:.0f} steps/s"
        )
    return 0


def preset_of(argv: Sequence[str]) -> Args:
    """Return what the flags that are not given mean.

    Raises:
        UsageError: As ``defaults.of_flags``.
    """
    names = ("algo", "env_id", "variant", "norm", "seed", "run_dir", "config")
    words = _cli.scanned(argv, names)
    settings = defaults.of_flags(
        algo=words.algo,
        env_id=words.env_id,
        variant=words.variant,
        norm=words.norm,
        seed=_cli.scanned_number(words.seed),
        run_dir=Path(words.run_dir) if words.run_dir else None,
        config=Path(words.config) if words.config else None,
        resume=bool(words.resume) and not words.help and words.run_dir != "",
    )
    return Args(**vars(settings))


if __name__ == "__main__":
    _cli.run(main, Args, description=__doc__, default=preset_of)
