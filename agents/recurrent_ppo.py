"""PPO with an LSTM, sb3-contrib's, with a norm."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.vec_env import VecEnv

from agents.common import check_spaces, first_env_seed, policy_name
from agents.ppo import PPOConfig
from agents.training import log_to
from wnrl.errors import UsageError, check_positive


@dataclass(frozen=True)
class RecurrentPPOConfig(PPOConfig):
    """PPO's hyperparameters and those of the LSTM, with sb3-contrib's names and defaults.

    Raises:
        UsageError: a value with which training could not run.
    """

    n_steps: int = 128
    """Steps of each environment between updates; the longest sequence to learn from."""
    batch_size: int = 128
    """Samples in a minibatch, in whole sequences."""
    lstm_hidden_size: int = 256
    """Units of each LSTM layer."""
    n_lstm_layers: int = 1
    """LSTM layers on top of one another."""
    shared_lstm: bool = False
    """One LSTM for policy and value; only the policy trains it."""
    enable_critic_lstm: bool = True
    """An LSTM of its own for the value; without it and without shared_lstm, a linear layer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(lstm_hidden_size=self.lstm_hidden_size, n_lstm_layers=self.n_lstm_layers)
        if self.shared_lstm and self.enable_critic_lstm:
            raise UsageError(
                "shared_lstm and enable_critic_lstm exclude each other, got True for both"
            )

    def policy_arguments(self) -> dict[str, Any]:
        """The arguments that the policy takes, less the norm."""
        same = ("lstm_hidden_size", "n_lstm_layers", "shared_lstm", "enable_critic_lstm")
        return {**super().policy_arguments(), **{name: getattr(self, name) for name in same}}


# Tuned values of rl-baselines3-zoo.
PRESETS: dict[str, RecurrentPPOConfig] = {
    "CartPoleNoVel-v1": RecurrentPPOConfig(
        normalize=True,
        n_envs=8,
        total_timesteps=100_000,
        n_steps=32,
        batch_size=256,
        gae_lambda=0.8,
        gamma=0.98,
        n_epochs=20,
        learning_rate=1e-3,
        learning_rate_schedule="linear",
        clip_range=0.2,
        clip_range_schedule="linear",
        ortho_init=False,
        activation_fn="relu",
        net_arch=(64,),
        lstm_hidden_size=64,
    ),
    "PendulumNoVel-v1": RecurrentPPOConfig(
        n_envs=4,
        total_timesteps=100_000,
        n_steps=1024,
        gae_lambda=0.95,
        gamma=0.9,
        n_epochs=10,
        learning_rate=1e-3,
        use_sde=True,
        sde_sample_freq=4,
        ortho_init=False,
        activation_fn="relu",
        net_arch=(64,),
        lstm_hidden_size=64,
    ),
    "LunarLanderNoVel-v3": RecurrentPPOConfig(
        n_envs=32,
        total_timesteps=5_000_000,
        n_steps=512,
        batch_size=128,
        gae_lambda=0.98,
        gamma=0.999,
        n_epochs=4,
        ent_coef=0.01,
        ortho_init=False,
        activation_fn="relu",
        net_arch=(64,),
        lstm_hidden_size=64,
    ),
}


def build(
    config: RecurrentPPOConfig,
    env: VecEnv,
    norm: str = "weight",
    seed: int = 0,
    device: torch.device | str = "auto",
    run_dir: Path | None = None,
) -> RecurrentPPO:
    """sb3-contrib's RecurrentPPO with a normalised network; arguments as in ``agents.ppo.build``.

    Raises:
        UsageError: the norm does not exist, or the spaces of ``env`` do not fit.
    """
    check_spaces(env, config.use_sde)
    model = RecurrentPPO(
        policy_name(env.observation_space, recurrent=True),
        env,
        policy_kwargs={**config.policy_arguments(), "norm": norm},
        seed=seed,
        device=device,
        **config.algorithm_arguments(),
    )
    env.seed(first_env_seed(seed))  # SB3 has seeded them with seed, seed + 1, ...
    if run_dir is not None:
        log_to(model, run_dir)
    return model
