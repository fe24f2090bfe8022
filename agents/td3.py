"""Twin delayed DDPG (Fujimoto et al., 2018, arXiv:1802.09477), SB3's, with a norm."""

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any, Literal

from agents.config import MUJOCO, Agent, ContinuousConfig, Imported
from wnrl.limits import Fraction, FromZero, Positive, Sizes, Whole

NOISES = {
    "normal": "stable_baselines3.common.noise:NormalActionNoise",
    "ornstein-uhlenbeck": "stable_baselines3.common.noise:OrnsteinUhlenbeckActionNoise",
}
"""Importable names of the noises on actions."""


@dataclass(frozen=True)
class DeterministicConfig(ContinuousConfig):
    """Hyperparameters of the algorithms whose actor is deterministic, with SB3's names.

    The defaults are SB3's, but for the exploration noise: SB3 itself adds none unless it is given
    some; here it is the paper's.

    Raises:
        UsageError: a value with which training could not run.
    """

    learning_rate: Positive = 1e-3
    """Step size of the optimizer."""
    net_arch: Sizes = (400, 300)
    """Hidden units of the actor, and of the critics unless critic_arch says otherwise."""
    tau: Fraction = 0.005
    """How far the target networks move to the learning ones."""
    noise_type: Literal["normal", "ornstein-uhlenbeck"] = "normal"
    """Noise on the actions that explore: normal, or ornstein-uhlenbeck, which drifts."""
    noise_std: FromZero = 0.1
    """Deviation of that noise; 1 is half the range of an action, 0 is without."""

    def algorithm_arguments(self, actions: Any = None) -> dict[str, Any]:
        """Return the arguments of SB3's algorithm, for actions in a space where it is given."""
        arguments = super().algorithm_arguments(actions)
        if self.noise_std and getattr(actions, "shape", None) is not None:
            import numpy as np

            kind, mean = resolve_name(NOISES[self.noise_type]), np.zeros(actions.shape)
            arguments["action_noise"] = kind(mean=mean, sigma=mean + self.noise_std)
        return arguments


@dataclass(frozen=True)
class TD3Config(DeterministicConfig):
    """Hyperparameters, with SB3's names; the defaults are SB3's, but for the exploration noise."""

    algorithm = Imported("stable_baselines3:TD3")

    policy_delay: Whole = 2
    """Minibatches of the critics between those of the actor."""
    target_policy_noise: FromZero = 0.2
    """Deviation of the noise on the target's actions."""
    target_noise_clip: FromZero = 0.5
    """Limit of that noise."""


AGENT = Agent(
    TD3Config,
    {  # rl-baselines3-zoo's, Pendulum's with a fifth of the steps; MuJoCo's of the authors' code
        "Pendulum-v1": TD3Config(total_timesteps=20_000, learning_starts=1000),
        "LunarLanderContinuous-v3": TD3Config(
            total_timesteps=300_000, learning_starts=1000, noise_type="ornstein-uhlenbeck"
        ),
        **dict.fromkeys(
            MUJOCO, TD3Config(learning_starts=25_000, learning_rate=3e-4, net_arch=(256, 256))
        ),
    },
    compiled=(
        "actor.forward", "actor_target.forward", "critic.forward", "critic_target.forward",
        "critic.q1_forward",
    ),
)  # fmt: skip
