"""Truncated quantile critics (Kuznetsov et al., 2020, arXiv:2005.04269), sb3-contrib's."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from sb3_contrib import TQC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from agents.assembly import CONTINUOUS, assemble
from agents.config import Whole, WholeFromZero
from agents.presets import MUJOCO
from agents.sac import SACConfig
from wnrl.errors import UsageError


@dataclass(frozen=True)
class TQCConfig(SACConfig):
    """SAC's hyperparameters and those of the quantiles, with sb3-contrib's names and defaults.

    Raises:
        UsageError: a value with which training could not run.
    """

    algorithm: ClassVar[type[BaseAlgorithm]] = TQC

    n_quantiles: Whole = 25
    """Quantiles of the return's distribution for each critic."""
    top_quantiles_to_drop_per_net: WholeFromZero = 2
    """Highest quantiles that the target leaves out, for each critic."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top_quantiles_to_drop_per_net >= self.n_quantiles:
            raise UsageError(
                f"top_quantiles_to_drop_per_net {self.top_quantiles_to_drop_per_net} leaves none "
                f"of n_quantiles {self.n_quantiles}"
            )


# LunarLander's is rl-baselines3-zoo's; the others are those of SAC.
PRESETS: dict[str, TQCConfig] = {
    "Pendulum-v1": TQCConfig(total_timesteps=20_000, learning_rate=1e-3),
    "LunarLanderContinuous-v3": TQCConfig(
        total_timesteps=500_000,
        learning_rate=7.3e-4,
        learning_rate_schedule="linear",
        tau=0.01,
        learning_starts=10_000,
        net_arch=(400, 300),
    ),
    **dict.fromkeys(MUJOCO, TQCConfig(learning_starts=10_000)),
}


def build(
    config: TQCConfig,
    env: VecEnv,
    norm: str = "weight",
    seed: int = 0,
    device: torch.device | str = "auto",
    run_dir: Path | None = None,
) -> TQC:
    """sb3-contrib's TQC with normalised networks; arguments as for ``assemble``."""
    return assemble(config, env, norm, seed, device, run_dir, actions=CONTINUOUS)
