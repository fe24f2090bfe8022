"""Compare the distribution of a population's returns with that of runs trained one by one.

    python scripts/bench/population_parity.py --norms none --runs 64
    python scripts/bench/population_parity.py --algo recurrent_ppo --env-id CartPoleNoVel-v1
    python scripts/bench/population_parity.py --algo dqn --norms none

One by one, PPO and DQN are stable-baselines3's, and recurrent PPO our agent's. Each side trains as
many independent runs, with seeds that the other side has not. stable-baselines3 would seed
environment i of seed s with s + i, so that neighbouring seeds share all but one of their
environments; here every run has environments of its own. Compared are the mean return of the
episodes that end in each quarter of training, and the mean return of twenty episodes after it, by
the Kolmogorov-Smirnov and the Mann-Whitney test; p is after Holm's correction for all of them.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from multiprocessing import get_context
from typing import Annotated, Any

from scripts import _cli
from wnrl.limits import Limited, NormKey, Whole, WholeFromZero, one_of, some

QUARTERS = 4
EPISODES = 20
APART = 10_000
"""From the seeds of runs trained one by one to those of the population."""
MEASURES = (*(f"quarter {k + 1}" for k in range(QUARTERS)), "after training")


@dataclass(frozen=True)
class Args(Limited):
    """Flags."""

    algo: Annotated[str, one_of(("ppo", "recurrent_ppo", "dqn"))] = "ppo"
    """ppo, recurrent_ppo or dqn."""
    norms: Annotated[tuple[NormKey, ...], some] = ("none", "weight", "layer")
    """Which norms."""
    runs: Whole = 64
    """Runs of each side and norm."""
    first_seed: WholeFromZero = 0
    """Of the runs trained one by one; the population's are 10,000 further on."""
    total_timesteps: Whole = 20_480
    """Environment steps of a run."""
    env_id: str = "CartPole-v1"
    """An environment that is a tensor environment too."""


if __name__ == "__main__":
    _cli.begin(Args, __doc__)  # before torch is imported

import numpy as np
import torch
from scipy import stats

import envs
from agents import AGENTS
from scripts.bench._rounds import agent_of, mean_cell, table
from wnrl.population import COHORTS
from wnrl.rl.environments import FINAL_STARTS, first_env_seed, vectorize_for_evaluation
from wnrl.rl.evaluation import evaluate
from wnrl.runs.machine import usable_cores
from wnrl.tensor_envs import make

TESTS = (stats.ks_2samp, stats.mannwhitneyu)


def config_of(args: Args) -> Any:
    """Return the preset of the task, for as many steps as asked for."""
    return replace(AGENTS[args.algo].preset(args.env_id), total_timesteps=args.total_timesteps)


def alone(args: Args, norm: str, seed: int) -> list[float]:
    """Return the measures of one run."""
    torch.set_num_threads(1)
    config = config_of(args)
    model = agent_of(args.algo, args.env_id, norm, config=config, seed=seed)
    model.learn(args.total_timesteps)
    env = model.get_env()
    returns = np.concatenate(env.env_method("get_episode_rewards"))
    ends = [np.cumsum(lengths) for lengths in env.env_method("get_episode_lengths")]
    each = quarters(np.concatenate(ends) * config.n_envs, returns, args.total_timesteps)
    apart = vectorize_for_evaluation(envs.factory(args.env_id), EPISODES, env)
    final, _ = evaluate(model, apart, EPISODES, first_env_seed(seed) + FINAL_STARTS)
    return [*map(float, each), float(np.mean(final))]


def quarters(steps: np.ndarray, returns: np.ndarray, total: int) -> list[np.ndarray]:
    """Return the mean return of the episodes that ended in each quarter of training.

    Args:
        steps: Environment steps of a run at each of T times.
        returns: Of the episodes that ended then, ``(T,)``, or ``(P, N, T)`` with NaN elsewhere.
        total: Steps of the run.

    Returns:
        A mean a quarter, over all but the first of three axes.
    """
    which, axes = (steps - 1) * QUARTERS // total, tuple(range(returns.ndim))[-2:]
    return [np.nanmean(returns[..., which == k], axes) for k in range(QUARTERS)]


def runs_alone(args: Args, norm: str) -> np.ndarray:
    """Return the measures of runs trained one by one, ``(runs, measures)``."""
    seeds = range(args.first_seed, args.first_seed + args.runs)
    with get_context("spawn").Pool(usable_cores()) as pool:
        return np.array(pool.starmap(alone, [(args, norm, seed) for seed in seeds]))


def by_population(args: Args, norm: str) -> np.ndarray:
    """Return the measures of a cohort, ``(runs, measures)``."""
    config, kind = config_of(args), COHORTS[args.algo]
    member = kind.member({**vars(config), "norm": norm})
    first = args.first_seed + APART
    seeds = range(first, first + args.runs)
    cohort = kind(make(args.env_id), [replace(member, seed=seed) for seed in seeds])
    ended = [cohort.iterate().returns for _ in range(member.iterations)]
    returns = torch.cat(ended, 2).double().numpy()  # (runs, envs, steps)
    steps = (np.arange(returns.shape[2]) + 1) * config.n_envs
    final = cohort.evaluate(EPISODES)[0].mean(1)
    return np.stack([*quarters(steps, returns, args.total_timesteps), final.numpy()], 1)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Return p-values ``(n,)`` after Holm's correction (1979), in their order."""
    order = np.argsort(p_values)
    factors = len(order) - np.arange(len(order))
    corrected = np.minimum(1, np.maximum.accumulate(p_values[order] * factors))
    return corrected[np.argsort(order)]


def rows(
    single: Mapping[str, np.ndarray], ours: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the table."""
    cells = list(product(single, range(len(MEASURES))))
    p_values = np.array(
        [[test(single[norm][:, k], ours[norm][:, k]).pvalue for test in TESTS] for norm, k in cells]
    )
    corrected = holm(p_values.ravel()).reshape(p_values.shape).min(1)
    for (norm, k), of_tests, smallest in zip(cells, p_values, corrected, strict=True):
        means = (mean_cell(side[norm][:, k]) for side in (single, ours))
        yield norm, MEASURES[k], *means, *(f"{p:.2f}" for p in (*of_tests, smallest))


def main(args: Args) -> None:
    """Train both sides and print the table."""
    torch.set_num_threads(1)
    single = {norm: runs_alone(args, norm) for norm in args.norms}
    ours = {norm: by_population(args, norm) for norm in args.norms}
    names = ("norm", "mean return", "one by one", "population", "KS p", "Mann-Whitney p", "Holm")
    table(names, rows(single, ours))


if __name__ == "__main__":
    _cli.run(main, Args, description=__doc__)
