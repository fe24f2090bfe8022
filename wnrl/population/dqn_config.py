"""DQN's hyperparameters by SB3's names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from wnrl.errors import UsageError
from wnrl.limits import (
    ActivationKey,
    Fraction,
    Positive,
    TwoOrMore,
    Whole,
    WholeFromZero,
    WholeOrMinusOne,
)
from wnrl.population.config import MemberConfig


@dataclass(frozen=True, kw_only=True)
class DQNConfig(MemberConfig):
    """Hyperparameters of one member; the defaults are SB3's.

    Raises:
        UsageError: a value with which training could not run.
    """

    members: ClassVar[tuple[str, ...]] = (
        *MemberConfig.members,
        "exploration_fraction",
        "exploration_initial_eps",
        "exploration_final_eps",
    )
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
