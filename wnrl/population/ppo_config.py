"""PPO's hyperparameters by SB3's names, and which of them may differ within a cohort."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, Self

from wnrl.errors import UsageError, check_choice, check_from_zero, check_positive
from wnrl.networks import ACTIVATIONS
from wnrl.norms import NORMS
from wnrl.population.statistics import KINDS

Schedule = Literal["constant", "linear"]
OPTIMIZERS = ("adam", "adamw", "adamax")


@dataclass(frozen=True, kw_only=True)
class PPOConfig:
    """Hyperparameters of one member; the defaults are SB3's.

    Raises:
        UsageError: a value with which training could not run.
    """

    members: ClassVar[tuple[str, ...]] = (
        "seed",
        "learning_rate",
        "clip_range",
        "ent_coef",
        "gamma",
        "gae_lambda",
    )
    """What may differ from member to member of one cohort."""
    algorithm: ClassVar[str] = "PPO"
    """Its name in messages."""
    elsewhere: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "frame_stack": (None, 1),
        "env_kwargs": ({},),
        "max_episode_steps": (None,),
        "placement": ("pre",),
        "critic_arch": (None,),
        "optimizer_kwargs": ({},),
        "algorithm_kwargs": ({},),
        "policy_kwargs": ({},),
        "use_sde": (False,),
        "sde_sample_freq": (),
        "target_kl": (None,),
        "clip_range_vf": (None,),
    }
    """SB3 has these and a population has not: the values that switch them off, () if all do."""

    seed: int = 0
    """Chooses the initial network and all random numbers."""
    norm: str = "none"
    """A key of ``NORMS``."""
    norm_kwargs: dict[str, int | float | str] = field(default_factory=dict, hash=False)
    """Options of the norm, as ``wnrl.convert`` takes them."""
    norm_heads: bool = False
    """Give the norm to the output heads too, if it reparametrises layers."""
    data_init: int | None = None
    """Observations for a data-dependent initialisation before the first update; None: without."""
    total_timesteps: int = 1_000_000
    """Environment steps, over all environments of a member."""
    normalize: str = "none"
    """What is scaled by running statistics: none, obs, reward or both."""
    n_envs: int = 8
    """Environments that step together."""
    n_steps: int = 2048
    """Steps of each environment between updates."""
    batch_size: int = 64
    """Samples in a minibatch."""
    n_epochs: int = 10
    """Passes over the samples of an update."""
    gamma: float = 0.99
    """Discount."""
    gae_lambda: float = 0.95
    """Trace of the generalised advantage estimate."""
    clip_range: float = 0.2
    """How far the ratio of new to old policy may leave 1."""
    clip_range_schedule: Schedule = "constant"
    """linear: falls to zero at the end of training."""
    normalize_advantage: bool = True
    """Standardise the advantages of each minibatch."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus."""
    vf_coef: float = 0.5
    """Weight of the value loss."""
    max_grad_norm: float = 0.5
    """Gradients are scaled down to this length."""
    learning_rate: float = 3e-4
    """Step size of the optimizer."""
    learning_rate_schedule: Schedule = "constant"
    """linear: falls to learning_rate_end at the end of training."""
    learning_rate_end: float = 0.0
    """Where a linear schedule ends."""
    optimizer: str = "adam"
    """adam, adamw or adamax."""
    weight_decay: float = 0.0
    """Decoupled weight decay, of adamw alone."""
    net_arch: tuple[int, ...] = (64, 64)
    """Hidden units of actor and critic."""
    activation_fn: str = "tanh"
    """A key of ``wnrl.networks.ACTIVATIONS``."""
    ortho_init: bool = True
    """Orthogonal initialisation, 0.01 at the action head."""
    log_std_init: float = 0.0
    """Initial log standard deviation of continuous actions."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "net_arch", tuple(self.net_arch))
        check_choice("norm", self.norm, NORMS)
        check_choice("activation_fn", self.activation_fn, ACTIVATIONS)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("normalize", self.normalize, KINDS)
        for name in ("total_timesteps", "n_envs", "n_steps", "n_epochs"):
            check_whole(name, getattr(self, name), 1)
        for width in self.net_arch:
            check_whole("net_arch", width, 1)
        check_whole("batch_size", self.batch_size, 2)
        if self.data_init is not None:
            check_whole("data_init", self.data_init, 2)
        for name in ("learning_rate", "clip_range", "max_grad_norm"):
            check_positive(**{name: getattr(self, name)})
        for name in ("ent_coef", "vf_coef", "learning_rate_end", "weight_decay"):
            check_from_zero(**{name: getattr(self, name)})
        for name in ("gamma", "gae_lambda"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise UsageError(f"{name} must be from 0 to 1, got {value!r}")
        for name in ("learning_rate_schedule", "clip_range_schedule"):
            check_choice(name, getattr(self, name), ("constant", "linear"))
        if self.learning_rate_end and self.learning_rate_schedule == "constant":
            raise UsageError(
                f"learning_rate_end {self.learning_rate_end} is for a linear schedule, "
                "got learning_rate_schedule 'constant'"
            )
        if self.weight_decay and self.optimizer != "adamw":
            raise UsageError(f"weight_decay is for optimizer adamw, got {self.optimizer!r}")
        if self.samples % self.batch_size == 1 or self.samples == 1:
            raise UsageError(
                f"batch_size {self.batch_size} leaves a last minibatch of one sample out of "
                f"n_envs * n_steps = {self.samples}"
            )
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
    def samples(self) -> int:
        """Samples of an update, n_envs * n_steps."""
        return self.n_envs * self.n_steps

    @property
    def minibatches(self) -> int:
        """Minibatches of an epoch; the last one may be smaller."""
        return -(-self.samples // self.batch_size)

    @property
    def iterations(self) -> int:
        """Rollouts with an update each, until ``total_timesteps`` are reached."""
        return -(-self.total_timesteps // self.samples)


def shared(configs: Sequence[PPOConfig]) -> PPOConfig:
    """Return what all members have in common, as the first one's configuration.

    Raises:
        UsageError: there are none, or they differ in what is not each member's own.
    """
    if not configs:
        raise UsageError("a cohort must have one member or more, got none")
    first = configs[0]
    own = {name: getattr(first, name) for name in first.members}
    for config in configs:
        if replace(config, **own) != first:
            differing = [
                f.name
                for f in fields(first)
                if f.name not in own and getattr(config, f.name) != getattr(first, f.name)
            ]
            raise UsageError(
                f"members of a cohort may differ in {', '.join(first.members)}; "
                f"got different {', '.join(differing)}"
            )
    return first


def check_whole(name: str, value: object, least: int) -> None:
    """Raise UsageError if ``value`` is no whole number from ``least`` on."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UsageError(f"{name} must be a whole number of at least {least}, got {value!r}")
