"""Deep deterministic policy gradient (Lillicrap et al., 2016, arXiv:1509.02971), SB3's."""

from dataclasses import dataclass, replace

from agents import td3
from agents.config import MUJOCO, Agent, Imported
from agents.td3 import DeterministicConfig
from wnrl.limits import Whole


@dataclass(frozen=True)
class DDPGConfig(DeterministicConfig):
    """Hyperparameters, with SB3's names; the defaults are SB3's, but for the exploration noise."""

    algorithm = Imported("stable_baselines3:DDPG")

    n_critics: Whole = 1
    """Critics, whose values are joined pessimistically."""


_TUNED = DDPGConfig(
    gamma=0.98, buffer_size=200_000, learning_starts=10_000, total_timesteps=300_000
)
AGENT = Agent(
    DDPGConfig,
    {  # values of rl-baselines3-zoo
        "Pendulum-v1": replace(_TUNED, total_timesteps=20_000),
        "LunarLanderContinuous-v3": _TUNED,
        "MountainCarContinuous-v0": DDPGConfig(
            total_timesteps=300_000, noise_type="ornstein-uhlenbeck", noise_std=0.5
        ),
        **dict.fromkeys(MUJOCO, DDPGConfig(learning_starts=10_000)),
    },
    compiled=td3.AGENT.compiled,
)
