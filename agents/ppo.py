"""Proximal policy optimisation (Schulman et al., 2017, arXiv:1707.06347), SB3's, with a norm."""

from dataclasses import dataclass, replace

from agents.config import ATARI, MINATAR, MUJOCO, Agent, ClippedConfig, GaussianConfig, Imported


@dataclass(frozen=True)
class PPOConfig(ClippedConfig, GaussianConfig):
    """Hyperparameters, with SB3's names; the defaults are SB3's."""

    algorithm = Imported("stable_baselines3:PPO")


_ATARI = PPOConfig(
    total_timesteps=10_000_000, n_steps=128, n_epochs=4, batch_size=256, learning_rate=2.5e-4,
    learning_rate_schedule="linear", clip_range=0.1, clip_range_schedule="linear", ent_coef=0.01,
    net_arch=(),
)  # fmt: skip
_CARTPOLE = PPOConfig(
    total_timesteps=100_000, n_steps=32, batch_size=256, gae_lambda=0.8, gamma=0.98, n_epochs=20,
    learning_rate=1e-3, learning_rate_schedule="linear", clip_range_schedule="linear",
)  # fmt: skip
AGENT = Agent(
    PPOConfig,
    {  # tuned values of rl-baselines3-zoo
        "CartPole-v1": _CARTPOLE,
        # Scaled like RecurrentPPO's: what an agent without memory makes of hidden velocities.
        "CartPoleNoVel-v1": replace(_CARTPOLE, normalize="both"),
        "Acrobot-v1": PPOConfig(
            normalize="both", n_envs=16, n_steps=256, gae_lambda=0.94, n_epochs=4
        ),
        "Pendulum-v1": PPOConfig(
            n_envs=4, total_timesteps=100_000, n_steps=1024, gamma=0.9, learning_rate=1e-3,
            use_sde=True, sde_sample_freq=4,
        ),
        "LunarLander-v3": PPOConfig(
            n_envs=16, n_steps=1024, gae_lambda=0.98, gamma=0.999, n_epochs=4, ent_coef=0.01
        ),
        "TMaze-*": PPOConfig(  # ours
            n_envs=16, total_timesteps=40_960, n_steps=64, batch_size=256, n_epochs=8,
            learning_rate=1e-3, gamma=0.98, gae_lambda=0.9, ent_coef=0.01, net_arch=(32,),
            ortho_init=False,
        ),
        **dict.fromkeys((*ATARI, MINATAR), _ATARI),  # tuned on Atari
        **dict.fromkeys(MUJOCO, PPOConfig(n_envs=1, normalize="both")),
    },
    compiled=("evaluate_actions",),
)  # fmt: skip
