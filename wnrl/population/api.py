"""Populations from Python: every norm at every learning rate with every seed, in one call."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from wnrl.arguments import shown
from wnrl.data import load
from wnrl.errors import NonFiniteError, UsageError, check_choice
from wnrl.limits import some
from wnrl.population.cohort import Cohort
from wnrl.population.config import MemberConfig
from wnrl.population.dqn import DQN
from wnrl.population.ppo import PPO
from wnrl.population.recurrent_ppo import RecurrentPPO
from wnrl.population.vae import VAECohort
from wnrl.runs import resolve_device
from wnrl.tensor_envs import make
from wnrl.tensor_envs.core import TensorEnv
from wnrl.vae.config import VAEConfig
from wnrl.vae.construction import build
from wnrl.vae.measure import Protocol, nll
from wnrl.vae.model import VAE
from wnrl.vae.presets import preset
from wnrl.vae.training import on_cpu

COHORTS: dict[str, type[Cohort]] = {"ppo": PPO, "recurrent_ppo": RecurrentPPO, "dqn": DQN}
"""The algorithms that train a population, by the words that agents have for them."""
EVALUATION_EPISODES = 20
VAES = "vae"
"""The word for VAEs among algorithms."""


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

    columns: ClassVar[tuple[str, str]] = ("score", "final_return")
    """The fields that a table has, and how they are written."""
    digits: ClassVar[int] = 1

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
class VAEMember:
    """One run of a population of VAEs."""

    config: VAEConfig
    """All its settings."""
    curve: tuple[float, ...]
    """The bound on the validation split, in nats, at ``n_logs`` points of training."""
    nll: float
    """−log p(x) on the test split, in nats, as ``wnrl.vae.nll`` measures it with ``n_samples``; NaN
    where it is not finite."""
    elbo: float
    """The ELBO there, a negative number."""
    finite: bool
    """Whether no parameter became NaN or infinite."""
    state: Mapping[str, Tensor]
    """The model's, on the CPU."""

    columns: ClassVar[tuple[str, str]] = ("nll", "elbo")
    digits: ClassVar[int] = 2

    def to_vae(self) -> VAE:
        """Return the model as one of ``wnrl.vae``, in eval mode on the CPU."""
        model = build(self.config)
        model.load_state_dict(dict(self.state))
        return model.eval()


MemberT = TypeVar("MemberT", Member, VAEMember)


@dataclass(frozen=True)
class Runs(Generic[MemberT]):
    """The runs of a population."""

    members: Sequence[MemberT]

    def member(self, norm: str, learning_rate: float, seed: int) -> MemberT:
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
        """Return means with standard errors, a line for each norm and learning rate.

        Behind a mean stands how many runs it is of, where some have no such number: a run without
        an episode that ended in the last tenth of training has no score.
        """
        groups: dict[tuple[str, float], list[MemberT]] = {}
        for member in self.members:
            key = (member.config.norm, member.config.learning_rate)
            groups.setdefault(key, []).append(member)
        first, second = (name.replace("_", " ") for name in self.members[0].columns)
        lines = [f"norm          learning rate  runs  failed   {first:<18} {second}"]
        for (norm, rate), group in groups.items():
            well = [member for member in group if member.finite]
            left, right = (
                _mean_and_error([getattr(member, name) for member in well], group[0].digits)
                for name in group[0].columns
            )
            failed = len(group) - len(well)
            lines.append(f"{norm:<13} {rate:<14g} {len(group):4}  {failed:6}   {left:<18} {right}")
        return "\n".join(lines)


INSTEAD = {"norm": "norms", "learning_rate": "learning_rates", "seed": "seeds"}
INSTEAD |= {"dataset": "env_id", "dataset_name": "env_id"}
"""Settings of one run, and the arguments of ``train`` that say them for all."""


def train(
    algo: str,
    env_id: str | TensorEnv,
    *,
    norms: Iterable[str] = ("weight",),
    learning_rates: Iterable[float] = (3e-4,),
    seeds: Iterable[int] = range(8),
    total_timesteps: int | None = None,
    device: str = "auto",
    progress: Callable[[float], None] = lambda fraction: None,
    **hyperparameters: Any,
) -> Runs[Any]:
    """Train every norm at every learning rate with every seed.

    The runs of one norm are one batch. A run's numbers do not depend on which others there are. On
    a CPU one thread works, since the operations are too small to be divided among more; the
    process has its number of threads back at the end.

    Args:
        algo: A key of ``COHORTS``: ppo, recurrent_ppo or dqn; or vae, the model ``mlp``.
        env_id: Of a tensor environment, see ``wnrl.tensor_envs``, or one itself; for VAEs the name
            of a data set.
        norms: Keys of ``wnrl.NORMS``.
        learning_rates: Step sizes of the optimizer.
        seeds: Of everything random in a run.
        total_timesteps: Environment steps of each run; of agents alone.
        device: auto, cpu, cuda or cuda:<k>.
        progress: Called with the share of all that is done.
        **hyperparameters: By SB3's names; what is not given has SB3's default. Those of VAEs are
            fields of ``wnrl.vae.VAEConfig``, and what is not given is the preset's.

    Raises:
        UsageError: A word, a value or a hyperparameter that the engine does not have.
    """
    check_choice("algo of a population", algo, (*COHORTS, VAES))
    norms, rates, seeds = list(norms), list(learning_rates), list(seeds)
    some.check(norms=norms, learning_rates=rates, seeds=seeds)
    for name in INSTEAD.keys() & hyperparameters.keys():
        raise UsageError(f"{name} is no hyperparameter here: give {INSTEAD[name]}")
    place, threads = resolve_device(device), torch.get_num_threads()
    own = [{"learning_rate": rate, "seed": seed} for rate, seed in product(rates, seeds)]
    asked = [[{"norm": norm, **each, **hyperparameters} for each in own] for norm in norms]
    cohorts = _cohorts(algo, env_id, total_timesteps, asked, place)
    members: list[Any] = []
    if place.type == "cpu":
        torch.set_num_threads(1)
    try:
        for done, cohort in enumerate(cohorts):

            def tell(share: float, done: int = done) -> None:
                progress((done + share) / len(cohorts))

            members += _vaes(cohort, tell) if algo == VAES else _agents(algo, cohort, tell)
    finally:
        torch.set_num_threads(threads)
    return Runs(members)


def _cohorts(
    algo: str, env_id: str | TensorEnv, steps: int | None, asked: list[Any], device: torch.device
) -> list[Any]:
    """Return cohorts of members with these settings, those of VAEs completed by their preset."""
    if algo != VAES:
        if steps is None:
            raise UsageError("total_timesteps must be a whole number above zero, got None")
        kind, env = COHORTS[algo], make(env_id) if isinstance(env_id, str) else env_id
        usual: dict[str, Any] = {"total_timesteps": steps}
        agents = [[kind.member({**usual, **own}) for own in each] for each in asked]
        return [kind(env, members, device=device) for members in agents]
    if steps is not None or not isinstance(env_id, str):
        raise UsageError(
            "VAEs take the name of a data set, and epochs or n_steps, "
            f"got {shown(env_id)} with total_timesteps {steps}"
        )
    usual, images = {"model": "mlp", "dataset_name": env_id}, load(env_id)
    vaes = [[preset(**{**usual, **own}) for own in each] for each in asked]
    return [VAECohort(images, members, device=device) for members in vaes]


def _vaes(cohort: VAECohort, tell: Callable[[float], None]) -> list[VAEMember]:
    """Train a cohort and measure its members; ``tell`` is told the share of steps that is done."""
    bounds, images, members = [], cohort.images, []
    while cohort.step < cohort.total_steps:
        cohort.iterate()
        if cohort.logs_at(cohort.step):
            bounds.append(cohort.validate()[cohort.validation.criterion])
        tell(cohort.step / cohort.total_steps)
    curves, finite = torch.stack(bounds, 1).tolist(), cohort.finite().tolist()
    for k, config in enumerate(cohort.members):
        model, measured = cohort.vae(k), (math.nan, math.nan)
        with suppress(NonFiniteError):
            likelihood = nll(model, images, Protocol(images.name, n_samples=config.n_samples))
            measured = likelihood.nll, likelihood.elbo
        members.append(VAEMember(config, (*curves[k],), *measured, finite[k], on_cpu(model)))
    return members


def _agents(algo: str, cohort: Cohort, tell: Callable[[float], None]) -> list[Member]:
    """Train a cohort, and return what became of its members; ``tell`` as above."""
    sums, counts, members = [], [], []  # of the episodes of each rollout
    while cohort.iteration < cohort.config.iterations:
        ended = cohort.iterate()
        sums.append(ended.returns.double().nansum((1, 2)))
        counts.append((ended.lengths > 0).sum((1, 2)))
        tell(cohort.iteration / cohort.config.iterations)
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


def _mean_and_error(values: Sequence[float], digits: int) -> str:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "–"
    error = f" ± {np.std(known, ddof=1) / len(known) ** 0.5:.{digits}f}" if len(known) > 1 else ""
    return f"{np.mean(known):.{digits}f}{error}" + f" ({len(known)})" * (len(known) < len(values))
