"""Hyperparameters that members of every algorithm have, and which of them may differ."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

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
    def samples(self) -> int:
        """Environment steps of an iteration."""
        return self.n_envs * self.steps

    @property
    def iterations(self) -> int:
        """Iterations until ``total_timesteps`` are reached."""
        return -(-self.total_timesteps // self.samples)


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
    differing = [
        f.name
        for f in fields(first)
        if f.name not in first.members
        and any(getattr(config, f.name) != getattr(first, f.name) for config in configs)
    ]
    if differing:
        raise UsageError(
            f"members of a cohort may differ in {', '.join(first.members)}; "
            f"got different {', '.join(differing)}"
        )
    return first
