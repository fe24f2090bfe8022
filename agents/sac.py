"""Soft actor-critic (Haarnoja et al., 2018, arXiv:1812.05905), SB3's, with a norm."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from agents.config import MUJOCO, Agent, ContinuousConfig, Imported
from wnrl.errors import UsageError
from wnrl.limits import Fraction, Whole, WholeOrMinusOne, limit


def _is_temperature(value: float | str) -> bool:
    word, _, start = str(value).partition("_")
    try:
        if word == "auto":
            return not start or 0 < float(start) < math.inf
        return 0 <= float(value) < math.inf
    except ValueError:
        return False


Temperature = Annotated[
    float | str, limit(_is_temperature, "a number from zero on, auto, or auto_<number above zero>")
]


@dataclass(frozen=True)
class MaximumEntropyConfig(ContinuousConfig):
    """Hyperparameters of the algorithms that maximise the return and the policy's entropy.

    Raises:
        UsageError: a value with which training could not run.
    """

    ent_coef: Temperature = "auto"
    """Weight of the entropy; auto learns it from 1 on, auto_0.1 from 0.1 on."""
    target_entropy: float | Literal["auto"] = "auto"
    """Entropy in nats at which a learned weight settles; auto: minus the number of actions."""
    use_sde: bool = False
    """State-dependent exploration."""
    sde_sample_freq: WholeOrMinusOne = -1
    """Steps between new exploration matrices; -1: once a rollout."""
    use_sde_at_warmup: bool = False
    """State-dependent exploration, not uniform actions, before learning_starts as well."""
    log_std_init: float = -3.0
    """Initial log standard deviation of actions under use_sde."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target_entropy != "auto" and not str(self.ent_coef).startswith("auto"):
            raise UsageError(f"target_entropy is for ent_coef auto, got {self.ent_coef!r}")


@dataclass(frozen=True)
class SACConfig(MaximumEntropyConfig):
    """Hyperparameters, with SB3's names; the defaults are SB3's.

    Raises:
        UsageError: a value with which training could not run.
    """

    algorithm = Imported("stable_baselines3:SAC")

    tau: Fraction = 0.005
    """How far the target networks move to the learning ones."""
    target_update_interval: Whole = 1
    """Minibatches between moves of the target networks."""


AGENT = Agent(
    SACConfig,
    {  # tuned values of rl-baselines3-zoo
        "Pendulum-v1": SACConfig(total_timesteps=20_000, learning_rate=1e-3),
        "LunarLanderContinuous-v3": SACConfig(
            total_timesteps=500_000, learning_rate=7.3e-4, learning_rate_schedule="linear",
            tau=0.01, learning_starts=10_000, net_arch=(400, 300),
        ),
        **dict.fromkeys(MUJOCO, SACConfig(learning_starts=10_000)),
    },
    compiled=("actor.action_log_prob", "critic.forward", "critic_target.forward"),
)  # fmt: skip
