"""Hyperparameters that all algorithms share: fields with their limits, and where they go.

A field has SB3's name. The limit of its value stands in its type, and each value is handed to that
argument of SB3's algorithm or policy which has the field's name.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, ClassVar, Literal, get_type_hints

import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import LinearSchedule

from wnrl.errors import UsageError, check_choice, check_from_zero, check_positive
from wnrl.networks import ACTIVATIONS

SCHEDULES = ("constant", "linear")
SCHEDULED = ("learning_rate", "clip_range")
OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adamax": torch.optim.Adamax,
}
"""Optimizers by name, with torch's default arguments."""


def limit(holds: Callable[[Any], bool], words: str) -> Callable[..., None]:
    """Return a check that raises UsageError for the first keyword whose value is none of these."""

    def check(**values: Any) -> None:
        for name, value in values.items():
            if not holds(value):
                raise UsageError(f"{name} must be {words}, got {value!r}")

    return check


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and value > 0


check_sizes = limit(lambda sizes: all(map(_is_size, sizes)), "whole sizes above zero")
check_whole = limit(_is_size, "a whole number above zero")
Whole = Annotated[int, check_whole]
WholeFromZero = Annotated[
    int, limit(lambda n: isinstance(n, int) and n >= 0, "a whole number from zero on")
]
WholeOrMinusOne = Annotated[
    int, limit(lambda n: n == -1 or _is_size(n), "a whole number above zero, or -1")
]
Positive = Annotated[float, check_positive]
FromZero = Annotated[float, check_from_zero]
Fraction = Annotated[float, limit(lambda x: 0 <= x <= 1, "from 0 to 1")]
Sizes = Annotated[tuple[int, ...], check_sizes]
Schedule = Literal["constant", "linear"]
OptimizerName = Literal["adam", "adamw", "adamax"]
Spaces = tuple[type[spaces.Space[Any]], ...]
ANY_ACTION: Spaces = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


@dataclass(frozen=True)
class Config:
    """Hyperparameters that every algorithm has.

    Raises:
        UsageError: a value with which training could not run.
    """

    algorithm: ClassVar[type[BaseAlgorithm]]
    """The class of SB3 or sb3-contrib."""
    actions: ClassVar[Spaces] = ANY_ACTION
    """The action spaces that the algorithm can learn in."""
    memory: ClassVar[str] = ""
    """Lstm or Gru for a recurrent policy."""

    total_timesteps: Whole = 1_000_000
    """Environment steps, over all environments."""
    n_envs: Whole = 1
    """Environments that step together."""
    normalize: bool = False
    """Scale observations (images excepted) and rewards by running statistics."""
    gamma: Fraction = 0.99
    """Discount."""
    learning_rate: Positive = 3e-4
    """Step size of the optimizer."""
    learning_rate_schedule: Schedule = "constant"
    """linear: falls to learning_rate_end at the end of training."""
    learning_rate_end: FromZero = 0.0
    """Where a linear schedule ends."""
    optimizer: OptimizerName = "adam"
    """adam, adamw or adamax; adam is SB3's, with its arguments for each algorithm."""
    weight_decay: FromZero = 0.0
    """Decoupled weight decay, of adamw alone."""
    net_arch: Sizes = (64, 64)
    """Hidden units of the networks."""
    activation_fn: str = "relu"
    """Nonlinearity of hidden layers: tanh, relu, elu, ...; a key of wnrl.networks.ACTIVATIONS."""
    norm_kwargs: dict[str, int | float | str] = field(default_factory=dict, hash=False)
    """Options of the norm, as wnrl.convert takes them."""
    norm_heads: bool = False
    """Give the norm to the output heads too; see wnrl.sb3."""
    data_init: Annotated[int | None, check_whole] = None
    """Observations for a data-dependent initialisation before the first update; None: without."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self), include_extras=True)
        for part in fields(self):
            value = getattr(self, part.name)
            if isinstance(value, list):  # as SB3 has sizes, and JSON
                value = tuple(value)
                object.__setattr__(self, part.name, value)
            for check in getattr(hints[part.name], "__metadata__", ()):
                if value is not None:
                    check(**{part.name: value})
        for name in self._scheduled():
            check_choice(f"{name}_schedule", getattr(self, f"{name}_schedule"), SCHEDULES)
        check_choice("activation_fn", self.activation_fn, ACTIVATIONS)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        if self.weight_decay and self.optimizer != "adamw":
            raise UsageError(f"weight_decay is for optimizer adamw, got {self.optimizer!r}")
        if self.learning_rate_end and self.learning_rate_schedule == "constant":
            raise UsageError(
                f"learning_rate_end {self.learning_rate_end} is for a linear schedule, "
                "got learning_rate_schedule 'constant'"
            )

    def algorithm_arguments(self) -> dict[str, Any]:
        """Return the arguments that SB3's algorithm takes."""
        arguments = self._taken_by(self.algorithm)
        for name in self._scheduled():
            if getattr(self, f"{name}_schedule") == "linear":
                end = getattr(self, f"{name}_end", 0.0)
                arguments[name] = LinearSchedule(arguments[name], end, 1.0)
        return arguments

    def arguments_for(self, actions: spaces.Space[Any]) -> dict[str, Any]:
        """Return further arguments of the algorithm, for actions in a space."""
        return {}

    def policy_arguments(self) -> dict[str, Any]:
        """Return the arguments that the policy takes, less the norm."""
        plain_policy = next(iter(self.algorithm.policy_aliases.values()))
        arguments = {
            **self._taken_by(plain_policy),
            "net_arch": list(self.net_arch),
            "activation_fn": ACTIVATIONS[self.activation_fn],
            "norm_heads": self.norm_heads,
            "norm_kwargs": dict(self.norm_kwargs),
            "data_init": self.data_init,
        }
        arguments.pop("use_sde", None)  # SB3 hands it on itself
        if self.optimizer != "adam":
            arguments["optimizer_class"] = OPTIMIZERS[self.optimizer]
        if self.optimizer == "adamw":  # torch's default is 0.01
            arguments["optimizer_kwargs"] = {"weight_decay": self.weight_decay}
        return arguments

    def _taken_by(self, function: Any) -> dict[str, Any]:
        """Return the fields that ``function`` has arguments for."""
        names: Mapping[str, Any] = inspect.signature(function).parameters
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name in names}

    def _scheduled(self) -> list[str]:
        return [name for name in SCHEDULED if hasattr(self, f"{name}_schedule")]


@dataclass(frozen=True)
class OnPolicyConfig(Config):
    """Hyperparameters of the algorithms that learn from their own last steps."""

    n_envs: Whole = 8
    """Environments that step together."""
    n_steps: Whole = 2048
    """Steps of each environment between updates."""
    gae_lambda: Fraction = 0.95
    """Trace of the generalised advantage estimate."""
    use_sde: bool = False
    """State-dependent exploration; for continuous actions."""
    sde_sample_freq: WholeOrMinusOne = -1
    """Steps between new exploration matrices; -1: once a rollout."""
    activation_fn: str = "tanh"
    """Nonlinearity of hidden layers: tanh, relu, elu, ...; a key of wnrl.networks.ACTIVATIONS."""
    ortho_init: bool = True
    """Orthogonal initialisation, 0.01 at the action head."""
    log_std_init: float = 0.0
    """Initial log standard deviation of continuous actions."""


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
    batch_size: Whole = 256
    """Transitions in a minibatch."""
    train_freq: Whole = 1
    """Steps of each environment between updates."""
    gradient_steps: WholeOrMinusOne = 1
    """Minibatches of an update; -1: as many as steps taken, over all environments."""
    n_steps: Whole = 1
    """Rewards that are added up before the value is bootstrapped."""
    optimize_memory_usage: bool = False
    """Keep each observation once, not twice; episodes that a time limit cut then count as ended."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < 2:
            raise UsageError(f"batch_size must be 2 or more, got {self.batch_size}")
        if self.batch_size > self.buffer_size:
            raise UsageError(
                f"batch_size {self.batch_size} is more than buffer_size {self.buffer_size} holds"
            )
        if self.learning_starts >= self.total_timesteps:
            raise UsageError(
                f"learning_starts {self.learning_starts} leaves nothing to learn in "
                f"total_timesteps {self.total_timesteps}"
            )
        if self.optimize_memory_usage and self.n_steps > 1:
            raise UsageError(f"optimize_memory_usage needs n_steps 1, got {self.n_steps}")

    def algorithm_arguments(self) -> dict[str, Any]:
        """Return the arguments that SB3's algorithm takes."""
        arguments = super().algorithm_arguments()
        if self.optimize_memory_usage:  # SB3's buffer cannot have both
            arguments["replay_buffer_kwargs"] = {"handle_timeout_termination": False}
        return arguments


@dataclass(frozen=True)
class ContinuousConfig(OffPolicyConfig):
    """Hyperparameters of the off-policy algorithms with an actor, for continuous actions."""

    actions: ClassVar[Spaces] = (spaces.Box,)

    net_arch: Sizes = (256, 256)
    """Hidden units of the actor, and of the critics unless critic_arch says otherwise."""
    critic_arch: Annotated[tuple[int, ...] | None, check_sizes] = None
    """Hidden units of the critics."""
    n_critics: Whole = 2
    """Critics, whose values are joined pessimistically."""

    def policy_arguments(self) -> dict[str, Any]:
        """Return the arguments that the policy takes, less the norm."""
        critic = self.net_arch if self.critic_arch is None else self.critic_arch
        return {
            **super().policy_arguments(),
            "net_arch": {"pi": list(self.net_arch), "qf": list(critic)},
        }
