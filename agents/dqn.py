"""Deep Q-learning (Mnih et al., 2015), SB3's, with a norm."""

import math
from dataclasses import dataclass
from typing import Any

from agents.config import ATARI, MINATAR, Agent, Imported, OffPolicyConfig
from wnrl.limits import Fraction, Positive, Share, TwoOrMore, Whole


@dataclass(frozen=True)
class DQNConfig(OffPolicyConfig):
    """Hyperparameters, with SB3's names; the defaults are SB3's.

    Raises:
        UsageError: a value with which training could not run.
    """

    algorithm = Imported("stable_baselines3:DQN")

    learning_rate: Positive = 1e-4
    """Step size of the optimizer."""
    batch_size: TwoOrMore = 32
    """Transitions in a minibatch."""
    train_freq: Whole = 4
    """Steps of each environment between updates."""
    tau: Fraction = 1.0
    """How far the target network moves to the learning one; 1 copies it."""
    target_update_interval: Whole = 10_000
    """Environment steps between moves of the target network."""
    exploration_fraction: Share = 0.1
    """Share of training in which the share of random actions falls to its final value."""
    exploration_initial_eps: Fraction = 1.0
    """Share of random actions at the start."""
    exploration_final_eps: Fraction = 0.05
    """Share of random actions at the end."""
    max_grad_norm: Positive | None = 10.0
    """Gradients are scaled down to this length; None leaves them."""

    def algorithm_arguments(self, actions: Any = None) -> dict[str, Any]:
        """Return the arguments of SB3's algorithm, for actions in a space where it is given."""
        arguments = super().algorithm_arguments(actions)
        if self.max_grad_norm is None and self.algorithm.__name__ == "DQN":  # which knows no None
            arguments["max_grad_norm"] = math.inf
        return arguments


# Tuned values of rl-baselines3-zoo.
CARTPOLE_FIELDS: dict[str, Any] = {
    "total_timesteps": 50_000, "learning_rate": 2.3e-3, "batch_size": 64, "buffer_size": 100_000,
    "learning_starts": 1000, "target_update_interval": 10, "train_freq": 256,
    "gradient_steps": 128, "exploration_fraction": 0.16, "exploration_final_eps": 0.04,
    "net_arch": (256, 256),
}  # fmt: skip
SMALL_FIELDS: dict[str, Any] = {
    "total_timesteps": 100_000, "learning_rate": 6.3e-4, "batch_size": 128, "buffer_size": 50_000,
    "learning_starts": 0, "target_update_interval": 250, "gradient_steps": -1,
    "exploration_fraction": 0.12, "exploration_final_eps": 0.1, "net_arch": (256, 256),
}  # fmt: skip
ATARI_FIELDS: dict[str, Any] = {
    "total_timesteps": 10_000_000, "buffer_size": 100_000, "learning_starts": 100_000,
    "target_update_interval": 1000, "exploration_final_eps": 0.01, "net_arch": (),
}  # fmt: skip
MINATAR_FIELDS = {**ATARI_FIELDS, "total_timesteps": 5_000_000, "learning_starts": 5000}
AGENT = Agent(
    DQNConfig,
    {
        "CartPole-v1": DQNConfig(**CARTPOLE_FIELDS),
        "Acrobot-v1": DQNConfig(**SMALL_FIELDS),
        "LunarLander-v3": DQNConfig(**SMALL_FIELDS),
        **dict.fromkeys(ATARI, DQNConfig(**ATARI_FIELDS)),
        MINATAR: DQNConfig(**MINATAR_FIELDS),
    },
    # The weight norm paper's, sections 3 and 5.4: the best learning rate of its four for `weight`.
    {"salimans2016": {"optimizer": "adamax", "batch_size": 64, "learning_rate": 3e-4,
                      "data_init": 64}},
    compiled=("q_net.forward", "q_net_target.forward"),
)  # fmt: skip
