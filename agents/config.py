"""Hyperparameters that all algorithms share: fields with their limits, and where they go.

A field has SB3's name. The limits of its value stand in its type, and each value is handed to that
argument of SB3's algorithm or policy which has the field's name.
"""

import inspect
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal

from wnrl.arguments import fault
from wnrl.errors import UsageError, check_choice, check_from_zero, is_real
from wnrl.limits import (
    Environments,
    Fraction,
    Frames,
    FromZero,
    Limited,
    Positive,
    Sizes,
    TwoOrMore,
    Whole,
    WholeFromZero,
    WholeOrMinusOne,
    check_minibatches,
    check_optimizer,
)

# Families of tasks, as patterns of their ids.
ATARI = ("ALE/*", "*NoFrameskip-v4")
MINATAR = "MinAtar*"
MUJOCO = ("Ant-v*", "HalfCheetah-v*", "Hopper-v*", "Humanoid-v*", "Swimmer-v*", "Walker2d-v*")
NOT_FURTHER = (
    "policy", "env", "seed", "device", "norm", "observation_space", "action_space", "lr_schedule",
    "_init_setup_model",
)  # fmt: skip


NOT_OF_OPTIMIZERS = ("params", "lr", "differentiable", "capturable")
"""Set by another name, or of no use in SB3's updates."""


class Imported:
    """A class by its importable name, ``module:Class``; it is imported when it is first read.

    The flags of a program are looked at before torch and SB3 are imported, which takes seconds.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type[Any]) -> Any:
        return pkgutil.resolve_name(self.name)


Schedule = Literal["constant", "linear"]
Keywords = dict[str, bool | int | float | str]


@dataclass(frozen=True)
class Config(Limited):
    """Hyperparameters that every algorithm has.

    Raises:
        UsageError: a value with which training could not run.
    """

    algorithm: ClassVar[Any]
    """The class of SB3 or sb3-contrib; ``Imported`` where it is not to be imported yet."""

    total_timesteps: Whole = 1_000_000
    """Environment steps, over all environments."""
    n_envs: Environments = 1
    """Environments that step together."""
    normalize: Literal["none", "obs", "reward", "both"] = "none"
    """Scale observations (obs; images excepted), rewards (reward) or both by running statistics."""
    frame_stack: Frames | None = None
    """Observations that are stacked to one; None: 4 of an Atari game, else 1."""
    gamma: Fraction = 0.99
    """Discount."""
    learning_rate: Positive = 3e-4
    """Step size of the optimizer."""
    learning_rate_schedule: Schedule = "constant"
    """linear: falls to learning_rate_end at the end of training."""
    learning_rate_end: FromZero = 0.0
    """Where a linear schedule ends."""
    optimizer: Literal["adam", "adamw", "adamax", "rmsprop", "rmsprop_tf"] = "adam"
    """adam is SB3's, with its arguments for each algorithm; rmsprop_tf is TensorFlow's RMSprop."""
    weight_decay: FromZero = 0.0
    """Decoupled weight decay, of adamw alone."""
    optimizer_kwargs: Keywords = field(default_factory=dict, hash=False)
    """Further arguments of the optimizer, instead of those that SB3 gives it."""
    net_arch: Sizes = (64, 64)
    """Hidden units of the networks."""
    activation_fn: str = "relu"
    """Nonlinearity of hidden layers: tanh, relu, elu, ...; a key of wnrl.networks.ACTIVATIONS."""
    norm_kwargs: Keywords = field(default_factory=dict, hash=False)
    """Options of the norm, as wnrl.convert takes them."""
    placement: Literal["pre", "post"] = "pre"
    """Put normalizers in front of the nonlinearity (pre) or behind it (post)."""
    norm_heads: bool = False
    """Give the norm to the output heads too; see wnrl.sb3."""
    data_init: Whole | None = None
    """Observations for a data-dependent initialisation before the first update; None: without."""
    algorithm_kwargs: Keywords = field(default_factory=dict, hash=False)
    """Further arguments of SB3's algorithm, of those that have no flag of their own."""
    policy_kwargs: Keywords = field(default_factory=dict, hash=False)
    """Further arguments of the policy, of those that have no flag of their own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_optimizer(self)
        further = self.algorithm_kwargs or self.policy_kwargs or self.optimizer_kwargs
        if further or self.activation_fn not in ("tanh", "relu"):  # for which torch is imported
            from wnrl.rl.models import OPTIMIZERS, plain_policy

            mine = {f.name for f in fields(self)} | {*NOT_FURTHER}
            self._check_further("algorithm_kwargs", self.algorithm, mine)
            self._check_further("policy_kwargs", plain_policy(self.algorithm), mine)
            optimizer = pkgutil.resolve_name(OPTIMIZERS[self.optimizer])
            decay = {"weight_decay"} if self.optimizer == "adamw" else set()
            self._check_further("optimizer_kwargs", optimizer, decay, NOT_OF_OPTIMIZERS)
            self.policy_arguments()

    @property
    def steps_of_an_update(self) -> int:
        """Environment steps that training has a whole number of times."""
        return self.n_envs

    def algorithm_arguments(self, actions: Any = None) -> dict[str, Any]:
        """Return the arguments of SB3's algorithm, for actions in a space where it is given."""
        from wnrl.rl.models import algorithm_arguments

        return {**algorithm_arguments(self.algorithm, vars(self)), **self.algorithm_kwargs}

    def policy_arguments(self) -> dict[str, Any]:
        """Return the arguments that the policy takes, less the norm."""
        from wnrl.rl.models import policy_arguments

        return {**policy_arguments(self.algorithm, vars(self)), **self.policy_kwargs}

    def _check_further(
        self, name: str, function: Any, mine: set[str], unknown: tuple[str, ...] = ()
    ) -> None:
        """Raise UsageError where an argument is a field, unknown to ``function`` or wrong.

        SB3 and torch look at some values when training has begun, and at others never. Numbers that
        have no flag are counts and sizes there, which are not negative.
        """
        parameters = inspect.signature(function).parameters
        for key, value in getattr(self, name).items():
            if key in mine:
                raise UsageError(f"{name}: {key} is set by its own name")
            check_choice(name, key, [word for word in parameters if word not in {*mine, *unknown}])
            if text := fault(f"{name}: {key}", value, parameters[key].annotation):
                raise UsageError(text)
            if is_real(value):
                check_from_zero(**{f"{name}: {key}": value})


@dataclass(frozen=True)
class OnPolicyConfig(Config):
    """Hyperparameters of the algorithms that learn from their own last steps."""

    n_envs: Environments = 8
    """Environments that step together."""
    n_steps: Whole = 2048
    """Steps of each environment between updates."""
    gae_lambda: Fraction = 0.95
    """Trace of the generalised advantage estimate."""
    activation_fn: str = "tanh"
    """Nonlinearity of hidden layers: tanh, relu, elu, ...; a key of wnrl.networks.ACTIVATIONS."""
    ortho_init: bool = True
    """Orthogonal initialisation, 0.01 at the action head."""
    critic_arch: Sizes | None = None
    """Hidden units of the value's network; None: as net_arch."""

    @property
    def steps_of_an_update(self) -> int:
        """Environment steps between updates."""
        return self.n_envs * self.n_steps

    def policy_arguments(self) -> dict[str, Any]:
        """Return the arguments that the policy takes, less the norm."""
        arguments = super().policy_arguments()
        if self.critic_arch is not None:
            arguments["net_arch"] = {"pi": list(self.net_arch), "vf": list(self.critic_arch)}
        return arguments


@dataclass(frozen=True)
class GaussianConfig(OnPolicyConfig):
    """Hyperparameters of the on-policy algorithms that know continuous actions too."""

    use_sde: bool = False
    """State-dependent exploration; for continuous actions."""
    sde_sample_freq: WholeOrMinusOne = -1
    """Steps between new exploration matrices; -1: once a rollout."""
    log_std_init: float = 0.0
    """Initial log standard deviation of continuous actions."""


@dataclass(frozen=True)
class ClippedConfig(OnPolicyConfig):
    """Hyperparameters of PPO and its variants, with SB3's names; the defaults are SB3's.

    Raises:
        UsageError: a value with which training could not run.
    """

    batch_size: TwoOrMore = 64
    """Samples in a minibatch."""
    n_epochs: Whole = 10
    """Passes over the samples of an update."""
    clip_range: Positive = 0.2
    """How far the ratio of new to old policy may leave 1."""
    clip_range_schedule: Schedule = "constant"
    """linear: falls to zero at the end of training."""
    ent_coef: FromZero = 0.0
    """Weight of the entropy bonus."""
    vf_coef: FromZero = 0.5
    """Weight of the value loss."""
    max_grad_norm: Positive = 0.5
    """Gradients are scaled down to this length."""
    target_kl: Positive | None = None
    """Stop an update early at 1.5 times this divergence."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_minibatches(self)


@dataclass(frozen=True)
class OffPolicyConfig(Config):
    """Hyperparameters of the algorithms that learn from a replay buffer.

    Several environments fill one buffer. A rollout is ``train_freq`` steps of each of them, and
    ``gradient_steps / (train_freq * n_envs)`` is the update-to-data ratio.
    """

    buffer_size: Whole = 1_000_000
    """Transitions kept, over all environments."""
    learning_starts: WholeFromZero = 100
    """Environment steps with random actions before the first update."""
    batch_size: TwoOrMore = 256
    """Transitions in a minibatch."""
    train_freq: Whole = 1
    """Steps of each environment between updates, or episodes of one."""
    train_freq_unit: Literal["step", "episode"] = "step"
    """Unit of train_freq."""
    gradient_steps: WholeOrMinusOne = 1
    """Minibatches of an update; -1: as many as steps taken, over all environments."""
    n_steps: Whole = 1
    """Rewards that are added up before the value is bootstrapped."""
    optimize_memory_usage: bool = False
    """Keep each observation once, not twice; episodes that a time limit cut then count as ended."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learning_starts >= self.total_timesteps:
            told = f"learning_starts {self.learning_starts} leaves nothing to learn"
            raise UsageError(f"{told} in total_timesteps {self.total_timesteps}")
        if self.train_freq_unit == "episode" and self.n_envs > 1:
            raise UsageError(f"train_freq_unit episode needs n_envs 1, got {self.n_envs}")

    @property
    def steps_of_an_update(self) -> int:
        """Environment steps between updates; 1 where that is said in episodes."""
        return 1 if self.train_freq_unit == "episode" else self.n_envs * self.train_freq

    def algorithm_arguments(self, actions: Any = None) -> dict[str, Any]:
        """Return the arguments of SB3's algorithm, for actions in a space where it is given."""
        arguments = super().algorithm_arguments(actions)
        if self.train_freq_unit == "episode":
            arguments["train_freq"] = (self.train_freq, "episode")
        if self.optimize_memory_usage:  # SB3's buffer cannot have both
            arguments["replay_buffer_kwargs"] = {"handle_timeout_termination": False}
        return arguments


@dataclass(frozen=True)
class ContinuousConfig(OffPolicyConfig):
    """Hyperparameters of the off-policy algorithms with an actor, for continuous actions."""

    net_arch: Sizes = (256, 256)
    """Hidden units of the actor, and of the critics unless critic_arch says otherwise."""
    critic_arch: Sizes | None = None
    """Hidden units of the critics."""
    n_critics: Whole = 2
    """Critics, whose values are joined pessimistically."""

    def policy_arguments(self) -> dict[str, Any]:
        """Return the arguments that the policy takes, less the norm."""
        critic = self.net_arch if self.critic_arch is None else self.critic_arch
        net_arch = {"pi": list(self.net_arch), "qf": list(critic)}
        return {**super().policy_arguments(), "net_arch": net_arch}


@dataclass(frozen=True)
class Agent:
    """One row of the table of algorithms."""

    config: type[Any]
    """The dataclass of its hyperparameters; its defaults are for tasks without a preset."""
    presets: Mapping[str, Any]
    """From an environment's id, or a pattern such as ``ALE/*``, to tuned hyperparameters."""
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """From the name of a published recipe to the hyperparameters that it changes in any preset."""
    compiled: Sequence[str] = ()
    """Methods that ``train`` calls, as <part of the policy>.<method>, for ``torch.compile``."""

    def build(self, *arguments: Any) -> Any:
        """Return the SB3 model, as ``agents.assembly.assemble`` does."""
        from agents.assembly import assemble  # which imports SB3

        return assemble(*arguments)

    def preset(self, env_id: str, variant: str | None = None) -> Any:
        """Return the hyperparameters for ``env_id``: its preset, its family's, or the defaults.

        Args:
            env_id: an environment's id; a module in front of it, as in ``ale_py:ALE/Pong-v5``,
                is passed over.
            variant: a key of ``variants``.

        Raises:
            UsageError: no such variant.
        """
        env_id = env_id.rpartition(":")[2]
        alike = (preset for key, preset in self.presets.items() if fnmatchcase(env_id, key))
        preset = self.presets.get(env_id) or next(alike, None) or self.config()
        if variant is None:
            return preset
        return replace(preset, **self.variants[check_choice("variant", variant, self.variants)])
