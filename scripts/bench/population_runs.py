"""Time whole runs of a population, from nothing to the last one's evaluation.

    python scripts/bench/population_runs.py --device cuda

PPO on CartPole with the preset's hyperparameters, four norms at three learning rates. The first
norm pays for what a process loads and records once.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dataclasses import dataclass
from typing import Annotated

from scripts import _cli
from wnrl.limits import Count, Limited, NormKey, Positive, some


@dataclass(frozen=True)
class Args(Limited):
    """Flags."""

    runs: Count = 240
    """Of all norms together."""
    norms: Annotated[tuple[NormKey, ...], some] = ("none", "weight", "layer", "batch")
    """Which norms."""
    learning_rates: Annotated[tuple[Positive, ...], some] = (1e-3, 3e-3, 1e-2)
    """At which rates."""
    total_timesteps: Count = 100_000
    """Of each run."""
    device: str = "cpu"
    """auto, cpu, cuda or cuda:<k>."""


if __name__ == "__main__":
    _cli.begin(Args, __doc__)  # before torch is imported

from agents import AGENTS
from scripts.bench import _rounds
from scripts.bench._rounds import CPU, WALL
from wnrl import population
from wnrl.population.ppo_config import PPOConfig

ENV_ID = "CartPole-v1"
OWN = ("seed", "norm", "learning_rate", "total_timesteps")


def main(args: Args) -> None:
    """Train each norm's runs, and print the table, norm by norm."""
    device = _rounds.prepare(args.device, 1)
    preset = vars(AGENTS["ppo"].preset(ENV_ID))
    config = {k: v for k, v in vars(PPOConfig.of(preset)).items() if k not in OWN}
    n_seeds = max(1, round(args.runs / len(args.norms) / len(args.learning_rates)))
    print(_rounds.header("norm", "runs", "seconds", "CPU seconds", "steps/s", "mean final return"))
    for norm in args.norms:
        made: list[population.Runs] = []

        def train(norm: str = norm, made: list[population.Runs] = made) -> None:
            made.append(
                population.train(
                    "ppo", ENV_ID, norms=[norm], learning_rates=args.learning_rates,
                    seeds=range(n_seeds), total_timesteps=args.total_timesteps,
                    device=args.device, **config,
                )
            )  # fmt: skip

        times = _rounds.clocked(train, device)
        finals = [member.final_return for member in made[0].members]
        n_steps = len(finals) * args.total_timesteps
        cells = (times[WALL], times[CPU], n_steps / times[WALL], sum(finals) / len(finals))
        print(_rounds.line((norm, str(len(finals)), *(f"{x:,.1f}" for x in cells))), flush=True)


if __name__ == "__main__":
    _cli.run(main, Args, description=__doc__)
