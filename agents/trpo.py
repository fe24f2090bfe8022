"""Trust region policy optimisation (Schulman et al., 2015, arXiv:1502.05477), sb3-contrib's."""

from dataclasses import dataclass

from agents.config import Agent, GaussianConfig, Imported
from wnrl.limits import Environments, Positive, TwoOrMore, Whole, check_minibatches


@dataclass(frozen=True)
class TRPOConfig(GaussianConfig):
    """Hyperparameters, with sb3-contrib's names; the defaults are sb3-contrib's.

    Raises:
        UsageError: a value with which training could not run.
    """

    algorithm = Imported("sb3_contrib:TRPO")

    n_envs: Environments = 2
    """Environments that step together."""
    learning_rate: Positive = 1e-3
    """Step size of the value function's optimizer; the policy's step follows from target_kl."""
    batch_size: TwoOrMore = 128
    """Samples in a minibatch of the value function."""
    target_kl: Positive = 0.01
    """Divergence from the old policy that a step may have."""
    cg_max_steps: Whole = 15
    """Steps of conjugate gradients for the direction of the policy's step."""
    cg_damping: Positive = 0.1
    """Added to the diagonal of the Fisher matrix."""
    n_critic_updates: Whole = 10
    """Passes of the value function over the samples of an update."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_minibatches(self)


AGENT = Agent(
    TRPOConfig,
    {  # tuned values of rl-baselines3-zoo
        "CartPole-v1": TRPOConfig(
            total_timesteps=100_000, n_steps=512, batch_size=512, cg_damping=1e-3, gae_lambda=0.98,
            n_critic_updates=20,
        ),
        "Acrobot-v1": TRPOConfig(total_timesteps=100_000, n_steps=1024, normalize="both"),
        "Pendulum-v1": TRPOConfig(
            total_timesteps=100_000, n_steps=1024, gamma=0.9, n_critic_updates=15, use_sde=True,
            sde_sample_freq=4,
        ),
        "LunarLander-v3": TRPOConfig(
            total_timesteps=200_000, n_steps=512, cg_damping=0.01, gae_lambda=0.98,
            n_critic_updates=15,
        ),
    },
    # Nothing is compiled: torch.compile has no second derivatives.
)  # fmt: skip
