"""Hyperparameters of members by SB3's names, and which of them may differ."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import torch
from torch import Tensor

from wnrl.errors import UsageError
from wnrl.limits import (
    ActivationKey,
    Fraction,
    FromZero,
    Limited,
    NormKey,
    Positive,
    Seed,
    Sizes,
    TwoOrMore,
    Whole,
    WholeFromZero,
    WholeOrMinusOne,
    check_minibatches,
    check_optimizer,
    one_of,
)
from wnrl.population.statistics import KINDS
from wnrl.vae.config import VAEConfig

Schedule = Literal["constant", "linear"]
ConfigT = TypeVar("ConfigT", bound="MemberConfig | VAEConfig")


@dataclass(frozen=True, kw_only=True)
class MemberConfig(Limited, ABC):
    """Hyperparameters of one member.

    Raises:
        UsageError: a value with which training could not run.
    """

    members: ClassVar[tuple[str, ...]] = ("seed", "learning_rate", "gamma")
    """What may differ from member to member of one cohort."""
    algorithm: ClassVar[str]
    """Its name in messages."""
    adam_eps: ClassVar[float] = 1e-8
    """What SB3's policies of the algorithm give Adam."""
    elsewhere: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "frame_stack": (None, 1),
        "env_kwargs": ({},),
        "max_episode_steps": (None,),
        "placement": ("pre",),
        "optimizer_kwargs": ({},),
        "algorithm_kwargs": ({},),
        "policy_kwargs": ({},),
    }
    """SB3 has these and a population has not: the values that switch them off, () if all do."""

    seed: Seed = 0
    """Chooses the initial network and all random numbers."""
    norm: NormKey = "none"
    """A key of ``NORMS``."""
    norm_kwargs: dict[str, int | float | str] = field(default_factory=dict, hash=False)
    """Options of the norm, as ``wnrl.convert`` takes them."""
    norm_heads: bool = False
    """Give the norm to the output heads too, if it reparametrises layers."""
    data_init: TwoOrMore | None = None
    """Observations for a data-dependent initialisation before the first update; None: without."""
    total_timesteps: Whole = 1_000_000
    """Environment steps, over all environments of a member."""
    normalize: Annotated[str, one_of(KINDS)] = "none"
    """What is scaled by running statistics: none, obs, reward or both."""
    n_envs: Whole = 1
    """Environments that step together."""
    gamma: Fraction = 0.99
    """Discount."""
    learning_rate: Positive = 3e-4
    """Step size of the optimizer."""
    learning_rate_schedule: Schedule = "constant"
    """linear: falls to learning_rate_end at the end of training."""
    learning_rate_end: FromZero = 0.0
    """Where a linear schedule ends."""
    optimizer: Literal["adam", "adamw", "adamax", "rmsprop"] = "adam"
    """adam, adamw, adamax or rmsprop."""
    weight_decay: FromZero = 0.0
    """Decoupled weight decay, of adamw alone."""
    net_arch: Sizes = (64, 64)
    """Hidden units of the networks."""
    activation_fn: ActivationKey = "tanh"
    """A key of ``wnrl.networks.ACTIVATIONS``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_optimizer(self)
        if self.norm == "batch" and self.norm_kwargs.get("momentum", 0.1) is None:
            raise UsageError("momentum of norm 'batch' must be a number in a population, got None")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """Return the configuration that settings of a run describe.

        Raises:
            UsageError: a setting that a population does not have; the line names those it has.
        """
        known = [f.name for f in fields(cls)]
        for name, value in settings.items():
            off = cls.elsewhere.get(name)
            if name not in known and (off is None or (off and value not in off)):
                raise UsageError(
                    f"{cls.algorithm} in a population has no {name}, got {value!r}; "
                    f"it has {', '.join(known)}"
                )
        return cls(**{name: value for name, value in settings.items() if name in known})

    @property
    @abstractmethod
    def steps(self) -> int:
        """Steps of each environment in an iteration."""

    @property
    def first_update(self) -> int:
        """The number of the first iteration with an update, from zero on."""
        return 0

    @property
    def samples(self) -> int:
        """Environment steps of an iteration."""
        return self.n_envs * self.steps

    @property
    def iterations(self) -> int:
        """Iterations until ``total_timesteps`` are reached."""
        return -(-self.total_timesteps // self.samples)


@dataclass(frozen=True, kw_only=True)
class PPOConfig(MemberConfig):
    """Those of PPO; the defaults are SB3's.

    Raises:
        UsageError: a value with which training could not run.
    """

    members = (*MemberConfig.members, "clip_range", "ent_coef", "gae_lambda")
    algorithm: ClassVar[str] = "PPO"
    adam_eps: ClassVar[float] = 1e-5
    elsewhere: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **MemberConfig.elsewhere,
        "critic_arch": (None,),
        "use_sde": (False,),
        "sde_sample_freq": (),
        "target_kl": (None,),
        "clip_range_vf": (None,),
    }

    n_envs: Whole = 8
    """Environments that step together."""
    n_steps: Whole = 2048
    """Steps of each environment between updates."""
    batch_size: TwoOrMore = 64
    """Samples in a minibatch."""
    n_epochs: Whole = 10
    """Passes over the samples of an update."""
    gae_lambda: Fraction = 0.95
    """Trace of the generalised advantage estimate."""
    clip_range: Positive = 0.2
    """How far the ratio of new to old policy may leave 1."""
    clip_range_schedule: Schedule = "constant"
    """linear: falls to zero at the end of training."""
    normalize_advantage: bool = True
    """Standardise the advantages of each minibatch."""
    ent_coef: FromZero = 0.0
    """Weight of the entropy bonus."""
    vf_coef: FromZero = 0.5
    """Weight of the value loss."""
    max_grad_norm: Positive = 0.5
    """Gradients are scaled down to this length."""
    ortho_init: bool = True
    """Orthogonal initialisation, 0.01 at the action head."""
    log_std_init: float = 0.0
    """Initial log standard deviation of continuous actions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_minibatches(self)

    @property
    def steps(self) -> int:
        """Steps of each environment in an iteration."""
        return self.n_steps

    @property
    def minibatches(self) -> int:
        """Minibatches of an epoch; the last one may be smaller."""
        return -(-self.samples // self.batch_size)


@dataclass(frozen=True, kw_only=True)
class RecurrentPPOConfig(PPOConfig):
    """Those of recurrent PPO; the defaults are sb3-contrib's.

    Raises:
        UsageError: a value with which training could not run.
    """

    algorithm: ClassVar[str] = "RecurrentPPO"
    elsewhere: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **PPOConfig.elsewhere,
        "shared_lstm": (False,),
        "enable_critic_lstm": (True,),
    }

    n_steps: Whole = 128
    """Steps of each environment between updates; the longest sequence to learn from."""
    batch_size: TwoOrMore = 128
    """Samples in a minibatch, a multiple of n_steps, or all."""
    cell: Annotated[str, one_of("wnrl.population.networks:CELLS")] = "lstm"
    """lstm or gru; the next two fields are of either."""
    lstm_hidden_size: Whole = 256
    """Units of each recurrent layer."""
    n_lstm_layers: Whole = 1
    """Recurrent layers on top of one another."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data_init is not None:
            raise UsageError(f"data_init has no place in {self.algorithm}, got {self.data_init}")
        if self.batch_size < self.samples and self.batch_size % self.n_steps:
            raise UsageError(
                f"batch_size of {self.algorithm} in a population must be a multiple of n_steps "
                f"{self.n_steps}, got {self.batch_size}"
            )


@dataclass(frozen=True, kw_only=True)
class DQNConfig(MemberConfig):
    """Those of DQN; the defaults are SB3's.

    Raises:
        UsageError: a value with which training could not run.
    """

    members = (
        *MemberConfig.members,
        "exploration_fraction", "exploration_initial_eps", "exploration_final_eps",
    )  # fmt: skip
    algorithm: ClassVar[str] = "DQN"
    elsewhere: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **MemberConfig.elsewhere,
        "train_freq_unit": ("step",),
        "n_steps": (1,),
        "optimize_memory_usage": (False,),
    }

    learning_rate: Positive = 1e-4
    """Step size of the optimizer."""
    activation_fn: ActivationKey = "relu"
    """A key of ``wnrl.networks.ACTIVATIONS``."""
    buffer_size: Whole = 1_000_000
    """Transitions kept, over all environments."""
    learning_starts: WholeFromZero = 100
    """Environment steps with random actions before the first update."""
    batch_size: TwoOrMore = 32
    """Transitions in a minibatch."""
    train_freq: Whole = 4
    """Steps of each environment between updates."""
    gradient_steps: WholeOrMinusOne = 1
    """Minibatches of an update; -1: as many as steps taken, over all environments."""
    tau: Fraction = 1.0
    """How far the target network moves to the learning one; 1 copies it."""
    target_update_interval: Whole = 10_000
    """Environment steps between moves of the target network."""
    exploration_fraction: Fraction = 0.1
    """Share of training in which the share of random actions falls to its final value."""
    exploration_initial_eps: Fraction = 1.0
    """Share of random actions at the start."""
    exploration_final_eps: Fraction = 0.05
    """Share of random actions at the end."""
    max_grad_norm: Positive = 10.0
    """Gradients are scaled down to this length."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.normalize != "none":
            raise UsageError(
                f"{self.algorithm} in a population has normalize none alone, got {self.normalize!r}"
            )
        if self.buffer_size < self.samples:
            raise UsageError(
                f"buffer_size must hold the n_envs * train_freq = {self.samples} steps between "
                f"updates, got {self.buffer_size}"
            )
        if self.learning_starts >= self.total_timesteps:
            raise UsageError(
                f"learning_starts {self.learning_starts} leaves nothing to learn in "
                f"total_timesteps {self.total_timesteps}"
            )

    @property
    def steps(self) -> int:
        """Steps of each environment in an iteration."""
        return self.train_freq

    @property
    def updates(self) -> int:
        """Minibatches of an update."""
        return self.samples if self.gradient_steps == -1 else self.gradient_steps

    @property
    def rows(self) -> int:
        """Steps of each environment that are kept."""
        return min(self.buffer_size // self.n_envs, self.iterations * self.steps)

    @property
    def first_update(self) -> int:
        """The number of the first iteration with an update, from zero on."""
        return self.learning_starts // self.samples

    def target_share(self, iteration: int) -> float:
        """Return how far the target network moves in that iteration, counted from zero."""
        interval = max(self.target_update_interval // self.n_envs, 1)
        moves = (iteration + 1) * self.steps // interval - iteration * self.steps // interval
        return 1 - (1 - self.tau) ** moves


def shared(configs: Sequence[ConfigT]) -> ConfigT:
    """Return what all members have in common, as the first one's configuration.

    Args:
        configs: of the members, dataclasses with ``members``.

    Raises:
        UsageError: there are none, or they differ in what is not each member's own.
    """
    if not configs:
        raise UsageError("a cohort must have one member or more, got none")
    first = configs[0]
    names = [f.name for f in fields(first) if f.name not in first.members]
    differing = [n for n in names if any(getattr(c, n) != getattr(first, n) for c in configs)]
    if differing:
        raise UsageError(
            f"members of a cohort may differ in {', '.join(first.members)}; "
            f"got different {', '.join(differing)}"
        )
    return first


def per_member(configs: Sequence[ConfigT], like: Tensor) -> dict[str, Tensor]:
    """Return the numbers that may differ from member to member, by name, ``(P,)`` as ``like``."""
    names = [name for name in configs[0].members if name != "seed"]
    return {name: torch.tensor([getattr(c, name) for c in configs]).to(like) for name in names}
