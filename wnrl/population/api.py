"""Populations from Python: every norm at every learning rate with every seed, in one call."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wnrl.errors import UsageError, check_choice
from wnrl.population.cohort import Cohort
from wnrl.population.cohorts import COHORTS
from wnrl.population.config import MemberConfig
from wnrl.runs import resolve_device
from wnrl.tensor_envs import make
from wnrl.tensor_envs.core import TensorEnv

EVALUATION_EPISODES = 20


@dataclass(frozen=True)
class Member:
    """One run of a population."""

    algo: str
    config: MemberConfig
    """All its hyperparameters."""
    env: TensorEnv
    curve: tuple[float, ...]
    """Mean return of the episodes that ended in each rollout; NaN where none did."""
    score: float
    """Mean return of the episodes in the last tenth of training; NaN where none ended."""
    final_return: float
    """Mean return of 20 episodes after training, with the likeliest actions."""
    finite: bool
    """Whether no parameter became NaN or infinite."""
    state: Mapping[str, Tensor]
    """The network, under the names of SB3's policy."""
    statistics: Mapping[str, Any] | None
    """By which observations and rewards are scaled, if they are; see ``wnrl.rl.statistics``."""

    def to_sb3(self) -> Any:
        """Return the agent as a model of SB3, which acts alike and saves as an ordinary zip.

        It knows the spaces; ``set_env`` gives it an environment to train on in. Where observations
        are scaled, its environment is a ``VecNormalize`` with the member's statistics, whose
        ``normalize_obs`` gives what the agent acts on.
        """
        from wnrl.rl.models import to_sb3

        spaces = (self.env.observation_space, self.env.action_space)
        return to_sb3(self.algo, self.config, *spaces, self.state, self.statistics)


@dataclass(frozen=True)
class Runs:
    """The runs of a population."""

    members: Sequence[Member]

    def member(self, norm: str, learning_rate: float, seed: int) -> Member:
        """Return one run.

        Raises:
            UsageError: There is none with these values.
        """
        for member in self.members:
            config = member.config
            if (config.norm, config.learning_rate, config.seed) == (norm, learning_rate, seed):
                return member
        raise UsageError(
            f"no run has norm {norm!r}, learning_rate {learning_rate!r} and seed {seed!r}"
        )

    def table(self) -> str:
        """Return mean and standard error of the scores, a line for each norm and learning rate."""
        groups: dict[tuple[str, float], list[Member]] = {}
        for member in self.members:
            key = (member.config.norm, member.config.learning_rate)
            groups.setdefault(key, []).append(member)
        lines = ["norm          learning rate  runs  failed   score         final return"]
        for (norm, rate), group in groups.items():
            well = [member for member in group if member.finite]
            score = _mean_and_error([member.score for member in well])
            final = _mean_and_error([member.final_return for member in well])
            failed = len(group) - len(well)
            lines.append(f"{norm:<13} {rate:<14g} {len(group):4}  {failed:6}   {score:<13} {final}")
        return "\n".join(lines)


def train(
    algo: str,
    env_id: str | TensorEnv,
    *,
    norms: Iterable[str] = ("weight",),
    learning_rates: Iterable[float] = (3e-4,),
    seeds: Iterable[int] = range(8),
    total_timesteps: int,
    device: str = "auto",
    progress: Callable[[float], None] = lambda fraction: None,
    **hyperparameters: Any,
) -> Runs:
    """Train every norm at every learning rate with every seed.

    The runs of one norm are one batch. A run's numbers do not depend on which others there are. On
    a CPU one thread works, since the operations are too small to be divided among more; the
    process has its number of threads back at the end.

    Args:
        algo: A key of ``COHORTS``: ppo, recurrent_ppo or dqn.
        env_id: Of a tensor environment, see ``wnrl.tensor_envs``, or one itself.
        norms: Keys of ``wnrl.NORMS``.
        learning_rates: Step sizes of the optimizer.
        seeds: Of everything random in a run.
        total_timesteps: Environment steps of each run.
        device: auto, cpu, cuda or cuda:<k>.
        progress: Called with the share of all that is done.
        **hyperparameters: By SB3's names; what is not given has SB3's default.

    Raises:
        UsageError: A word, a value or a hyperparameter that the engine does not have.
    """
    cohort_class = COHORTS[check_choice("algo of a population", algo, COHORTS)]
    env = make(env_id) if isinstance(env_id, str) else env_id
    norms, rates, seeds = list(norms), list(learning_rates), list(seeds)
    for name, values in (("norms", norms), ("learning_rates", rates), ("seeds", seeds)):
        if not values or len({*values}) < len(values):
            raise UsageError(f"{name} must be one or more different values, got {values}")
    settings = {"total_timesteps": total_timesteps, **hyperparameters}
    place, threads = resolve_device(device), torch.get_num_threads()
    cohorts = [
        cohort_class(
            env,
            [
                cohort_class.member({"norm": norm, "learning_rate": rate, "seed": seed, **settings})
                for rate in rates
                for seed in seeds
            ],
            device=place,
        )
        for norm in norms
    ]
    if place.type == "cpu":
        torch.set_num_threads(1)
    try:
        return Runs(_trained(algo, cohorts, progress))
    finally:
        torch.set_num_threads(threads)


def _trained(
    algo: str, cohorts: Sequence[Cohort], progress: Callable[[float], None]
) -> list[Member]:
    """Train cohorts one after the other, and return what became of their members."""
    members: list[Member] = []
    for done, cohort in enumerate(cohorts):
        sums, counts = [], []  # of the episodes of each rollout
        while cohort.iteration < cohort.config.iterations:
            ended = cohort.iterate()
            sums.append(ended.returns.double().nansum((1, 2)))
            counts.append((ended.lengths > 0).sum((1, 2)))
            progress((done + cohort.iteration / cohort.config.iterations) / len(cohorts))
        total, number = torch.stack(sums, 1), torch.stack(counts, 1)  # (P, iterations)
        tenth = slice(-max(1, len(sums) // 10), None)
        curves = (total / number).tolist()
        scores = (total[:, tenth].sum(1) / number[:, tenth].sum(1)).tolist()
        final = cohort.evaluate(EVALUATION_EPISODES)[0].mean(1).tolist()
        finite = cohort.finite().tolist()
        for i, config in enumerate(cohort.members):
            state, statistics = cohort.member_state(i), cohort.member_statistics(i)
            numbers = (tuple(curves[i]), scores[i], final[i], finite[i])
            members.append(Member(algo, config, cohort.env, *numbers, state, statistics))
    return members


def _mean_and_error(values: Sequence[float]) -> str:
    values = [value for value in values if not math.isnan(value)]
    if not values:
        return "–"
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1) / len(values) ** 0.5:.1f}"
