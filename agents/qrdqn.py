"""Quantile regression DQN (Dabney et al., 2018, arXiv:1710.10044), sb3-contrib's, with a norm."""

from dataclasses import dataclass

from agents.config import ATARI, MINATAR, Agent, Imported
from agents.dqn import ATARI_FIELDS, CARTPOLE_FIELDS, SMALL_FIELDS, DQNConfig
from wnrl.limits import Fraction, Positive, Share, Whole


@dataclass(frozen=True)
class QRDQNConfig(DQNConfig):
    """DQN's hyperparameters, with sb3-contrib's names and defaults.

    Raises:
        UsageError: a value with which training could not run.
    """

    algorithm = Imported("sb3_contrib:QRDQN")

    learning_rate: Positive = 5e-5
    """Step size of the optimizer."""
    exploration_fraction: Share = 0.005
    """Share of training in which the share of random actions falls to its final value."""
    exploration_final_eps: Fraction = 0.01
    """Share of random actions at the end."""
    max_grad_norm: Positive | None = None
    """Gradients are scaled down to this length; None leaves them."""
    n_quantiles: Whole = 200
    """Quantiles of the return's distribution for each action."""


AGENT = Agent(
    QRDQNConfig,
    {  # tuned values of rl-baselines3-zoo; where they are DQN's, those of DQN
        "CartPole-v1": QRDQNConfig(**CARTPOLE_FIELDS, n_quantiles=10),
        "Acrobot-v1": QRDQNConfig(**SMALL_FIELDS, n_quantiles=25),
        "LunarLander-v3": QRDQNConfig(
            total_timesteps=100_000, learning_rate=1.5e-3, learning_rate_schedule="linear",
            batch_size=128, buffer_size=100_000, learning_starts=10_000, gamma=0.995,
            target_update_interval=1, train_freq=256, gradient_steps=-1, exploration_fraction=0.24,
            exploration_final_eps=0.18, net_arch=(256, 256), n_quantiles=170,
        ),
        **dict.fromkeys((*ATARI, MINATAR), QRDQNConfig(**ATARI_FIELDS)),
    },
    # Its forward reads an action space, which is no tensor: its parts are compiled.
    compiled=[
        f"{net}.{part}.forward"
        for net in ("quantile_net", "quantile_net_target")
        for part in ("features_extractor", "quantile_net")
    ],
)  # fmt: skip
