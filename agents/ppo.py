"""Proximal policy optimisation (Schulman et al., 2017, arXiv:1707.06347), SB3's, with a norm."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv

import wnrl.sb3  # noqa: F401 (registers the names of the policies)
from agents.common import (
    Schedule,
    check_fraction,
    check_sizes,
    check_spaces,
    first_env_seed,
    policy_name,
    schedule,
)
from agents.training import log_to
from wnrl.errors import UsageError, check_choice, check_positive
from wnrl.networks import ACTIVATIONS


@dataclass(frozen=True)
class PPOConfig:
    """Hyperparameters, with SB3's names; the defaults are SB3's.

    Raises:
        UsageError: a value with which training could not run.
    """

    total_timesteps: int = 1_000_000
    """Environment steps, over all environments."""
    n_envs: int = 8
    """Environments that step together."""
    normalize: bool = False
    """Scale observations and rewards by running statistics."""
    learning_rate: float = 3e-4
    """Step size of Adam."""
    learning_rate_schedule: Schedule = "constant"
    """linear: falls to zero at the end of training."""
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
    ent_coef: float = 0.0
    """Weight of the entropy bonus."""
    vf_coef: float = 0.5
    """Weight of the value loss."""
    max_grad_norm: float = 0.5
    """Gradients are scaled down to this length."""
    target_kl: float | None = None
    """Stop an update early at 1.5 times this divergence."""
    use_sde: bool = False
    """State-dependent exploration; for continuous actions."""
    sde_sample_freq: int = -1
    """Steps between new exploration matrices; -1: once a rollout."""
    net_arch: tuple[int, ...] = (64, 64)
    """Hidden units of the policy and of the value network."""
    activation_fn: str = "tanh"
    """Nonlinearity of hidden layers: tanh, relu, elu, ...; a key of wnrl.networks.ACTIVATIONS."""
    ortho_init: bool = True
    """Orthogonal initialisation, 0.01 at the action head."""
    log_std_init: float = 0.0
    """Initial log standard deviation of continuous actions."""
    norm_heads: bool = False
    """Give the norm to the action and value heads too; see wnrl.sb3."""

    def __post_init__(self) -> None:
        check_positive(
            total_timesteps=self.total_timesteps,
            n_envs=self.n_envs,
            learning_rate=self.learning_rate,
            n_steps=self.n_steps,
            n_epochs=self.n_epochs,
            clip_range=self.clip_range,
            max_grad_norm=self.max_grad_norm,
        )
        if self.target_kl is not None:
            check_positive(target_kl=self.target_kl)
        check_fraction(gamma=self.gamma, gae_lambda=self.gae_lambda)
        check_sizes("net_arch", self.net_arch)
        for word in ("learning_rate_schedule", "clip_range_schedule"):
            check_choice(word, getattr(self, word), ("constant", "linear"))
        check_choice("activation_fn", self.activation_fn, ACTIVATIONS)
        if self.batch_size < 2:
            raise UsageError(f"batch_size must be 2 or more, got {self.batch_size}")
        samples = self.n_envs * self.n_steps
        if samples % self.batch_size == 1 or samples == 1:
            raise UsageError(
                f"batch_size {self.batch_size} leaves a last minibatch of one sample out of "
                f"n_envs * n_steps = {samples}"
            )

    def algorithm_arguments(self) -> dict[str, Any]:
        """The arguments that SB3's algorithm takes."""
        same = (
            "n_steps", "batch_size", "n_epochs", "gamma", "gae_lambda", "ent_coef", "vf_coef",
            "max_grad_norm", "target_kl", "use_sde", "sde_sample_freq",
        )  # fmt: skip
        return {
            "learning_rate": schedule(self.learning_rate, self.learning_rate_schedule),
            "clip_range": schedule(self.clip_range, self.clip_range_schedule),
            **{name: getattr(self, name) for name in same},
        }

    def policy_arguments(self) -> dict[str, Any]:
        """The arguments that the policy takes, less the norm."""
        return {
            "net_arch": list(self.net_arch),
            "activation_fn": ACTIVATIONS[self.activation_fn],
            "ortho_init": self.ortho_init,
            "log_std_init": self.log_std_init,
            "norm_heads": self.norm_heads,
        }


# Tuned values of rl-baselines3-zoo.
PRESETS: dict[str, PPOConfig] = {
    "CartPole-v1": PPOConfig(
        total_timesteps=100_000,
        n_envs=8,
        n_steps=32,
        batch_size=256,
        gae_lambda=0.8,
        gamma=0.98,
        n_epochs=20,
        learning_rate=1e-3,
        learning_rate_schedule="linear",
        clip_range=0.2,
        clip_range_schedule="linear",
    ),
    "Acrobot-v1": PPOConfig(
        normalize=True,
        n_envs=16,
        total_timesteps=1_000_000,
        n_steps=256,
        gae_lambda=0.94,
        n_epochs=4,
    ),
    "Pendulum-v1": PPOConfig(
        n_envs=4,
        total_timesteps=100_000,
        n_steps=1024,
        gae_lambda=0.95,
        gamma=0.9,
        n_epochs=10,
        learning_rate=1e-3,
        use_sde=True,
        sde_sample_freq=4,
    ),
    "LunarLander-v3": PPOConfig(
        n_envs=16,
        total_timesteps=1_000_000,
        n_steps=1024,
        batch_size=64,
        gae_lambda=0.98,
        gamma=0.999,
        n_epochs=4,
        ent_coef=0.01,
    ),
}


def build(
    config: PPOConfig,
    env: VecEnv,
    norm: str = "weight",
    seed: int = 0,
    device: torch.device | str = "auto",
    run_dir: Path | None = None,
) -> PPO:
    """SB3's PPO with a normalised network.

    Args:
        config: hyperparameters.
        env: what to learn in, from ``agents.vectorize``.
        norm: a key of ``wnrl.NORMS``.
        seed: seeds Python, NumPy and torch; the environments count on from
            ``agents.common.first_env_seed(seed)``.
        device: where the network lives.
        run_dir: where the event file goes; None logs nothing.

    Raises:
        UsageError: the norm does not exist, or the spaces of ``env`` do not fit PPO.
    """
    check_spaces(env, config.use_sde)
    model = PPO(
        policy_name(env.observation_space),
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
