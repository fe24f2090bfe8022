"""Quantile regression DQN (Dabney et al., 2018, arXiv:1710.10044), sb3-contrib's, with a norm."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import torch
from sb3_contrib import QRDQN
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from agents.assembly import DISCRETE, assemble
from agents.config import Fraction, Positive, Whole
from agents.dqn import ATARI_FIELDS, DQNConfig
from agents.presets import ATARI, MINATAR
from wnrl.errors import check_positive


@dataclass(frozen=True)
class QRDQNConfig(DQNConfig):
    """DQN's hyperparameters, with sb3-contrib's names and defaults.

    Raises:
        UsageError: a value with which training could not run.
    """

    algorithm: ClassVar[type[BaseAlgorithm]] = QRDQN

    learning_rate: Positive = 5e-5
    """Step size of the optimizer."""
    exploration_fraction: Fraction = 0.005
    """Share of training in which the share of random actions falls to its final value."""
    exploration_final_eps: Fraction = 0.01
    """Share of random actions at the end."""
    max_grad_norm: Annotated[float | None, check_positive] = None
    """Gradients are scaled down to this length; None leaves them."""
    n_quantiles: Whole = 200
    """Quantiles of the return's distribution for each action."""


# Tuned values of rl-baselines3-zoo.
PRESETS: dict[str, QRDQNConfig] = {
    "CartPole-v1": QRDQNConfig(
        total_timesteps=50_000,
        learning_rate=2.3e-3,
        batch_size=64,
        buffer_size=100_000,
        learning_starts=1000,
        target_update_interval=10,
        train_freq=256,
        gradient_steps=128,
        exploration_fraction=0.16,
        exploration_final_eps=0.04,
        net_arch=(256, 256),
        n_quantiles=10,
    ),
    "Acrobot-v1": QRDQNConfig(
        total_timesteps=100_000,
        learning_rate=6.3e-4,
        batch_size=128,
        buffer_size=50_000,
        learning_starts=0,
        target_update_interval=250,
        gradient_steps=-1,
        exploration_fraction=0.12,
        exploration_final_eps=0.1,
        net_arch=(256, 256),
        n_quantiles=25,
    ),
    "LunarLander-v3": QRDQNConfig(
        total_timesteps=100_000,
        learning_rate=1.5e-3,
        learning_rate_schedule="linear",
        batch_size=128,
        buffer_size=100_000,
        learning_starts=10_000,
        gamma=0.995,
        target_update_interval=1,
        train_freq=256,
        gradient_steps=-1,
        exploration_fraction=0.24,
        exploration_final_eps=0.18,
        net_arch=(256, 256),
        n_quantiles=170,
    ),
    **dict.fromkeys((*ATARI, MINATAR), QRDQNConfig(**ATARI_FIELDS)),  # DQN's
}


def build(
    config: QRDQNConfig,
    env: VecEnv,
    norm: str = "weight",
    seed: int = 0,
    device: torch.device | str = "auto",
    run_dir: Path | None = None,
) -> QRDQN:
    """sb3-contrib's QRDQN with a normalised network; arguments as for ``assemble``."""
    return assemble(config, env, norm, seed, device, run_dir, actions=DISCRETE)
