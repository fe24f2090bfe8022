"""CrossQ (Bhatt et al., 2024, arXiv:1902.05605), sb3-contrib's, with a norm.

With norm ``batch_renorm`` it is CrossQ itself, whose first 100 000 updates are a warm-up with plain
batch norm, with ``projected`` CrossQ with projected weights (Palenicek et al., 2025,
arXiv:2502.07523), whose other hyperparameters are the variant ``wn``.
"""

from dataclasses import dataclass
from typing import Any

from agents import sac
from agents.config import MUJOCO, Agent, Imported
from wnrl.limits import Positive, Share, Sizes, Whole


@dataclass(frozen=True)
class CrossQConfig(sac.MaximumEntropyConfig):
    """Hyperparameters, with sb3-contrib's names; the defaults are sb3-contrib's.

    The update-to-data ratio is ``gradient_steps`` where one
    environment makes one step between updates.

    Raises:
        UsageError: a value with which training could not run.
    """

    algorithm = Imported("sb3_contrib:CrossQ")

    learning_rate: Positive = 1e-3
    """Step size of the optimizer; the first beta of adam and adamw is 0.5."""
    critic_arch: Sizes | None = (1024, 1024)
    """Hidden units of the critics; None: as net_arch."""
    policy_delay: Whole = 3
    """Minibatches of the critics between those of the actor."""

    tau: Share | None = None
    """How far the target of the critics moves to them after each minibatch; None: no target."""

    def policy_arguments(self) -> dict[str, Any]:
        """Return the arguments that the policy takes, less the norm."""
        arguments = {**super().policy_arguments(), "tau": self.tau}
        if "optimizer_kwargs" in arguments and self.optimizer in ("adam", "adamw"):
            # in the place of sb3-contrib's
            arguments["optimizer_kwargs"] = {"betas": (0.5, 0.999), **arguments["optimizer_kwargs"]}
        return arguments


AGENT = Agent(
    CrossQConfig,
    {  # tuned values of rl-baselines3-zoo
        "Pendulum-v1": CrossQConfig(
            total_timesteps=20_000, policy_delay=2, critic_arch=(256, 256)
        ),
        "LunarLanderContinuous-v3": CrossQConfig(total_timesteps=200_000, learning_starts=10_000),
        **dict.fromkeys(MUJOCO, CrossQConfig(learning_starts=5000, critic_arch=(2048, 2048))),
    },
    # For norm `projected`, whose rows wnrl.sb3 spares from the decay: it is for the output layers.
    # Of the paper's it lacks a first beta of 0.9, where CrossQ's is 0.5, and the target entropy of
    # minus half the number of actions.
    {"wn": {"critic_arch": (512, 512), "optimizer": "adamw", "weight_decay": 0.01,
            "learning_rate": 3e-4, "learning_rate_schedule": "linear", "learning_rate_end": 3e-5,
            "batch_size": 256, "policy_delay": 3, "tau": 0.005}},
    compiled=sac.AGENT.compiled,
)  # fmt: skip
