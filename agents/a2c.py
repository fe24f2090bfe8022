"""Advantage actor-critic (Mnih et al., 2016, arXiv:1602.01783), SB3's, with a norm."""

from dataclasses import dataclass

from agents import ppo
from agents.config import ATARI, Agent, GaussianConfig, Imported
from wnrl.errors import UsageError
from wnrl.limits import Fraction, FromZero, Positive, Whole


@dataclass(frozen=True)
class A2CConfig(GaussianConfig):
    """Hyperparameters, with SB3's names; the defaults are SB3's.

    Raises:
        UsageError: a value with which training could not run.
    """

    algorithm = Imported("stable_baselines3:A2C")

    learning_rate: Positive = 7e-4
    """Step size of the optimizer."""
    n_steps: Whole = 5
    """Steps of each environment between updates."""
    gae_lambda: Fraction = 1.0
    """Trace of the generalised advantage estimate; 1: the return itself."""
    ent_coef: FromZero = 0.0
    """Weight of the entropy bonus."""
    vf_coef: FromZero = 0.5
    """Weight of the value loss."""
    max_grad_norm: Positive = 0.5
    """Gradients are scaled down to this length."""
    use_rms_prop: bool = True
    """RMSprop in the place of adam."""
    rms_prop_eps: Positive = 1e-5
    """RMSprop's epsilon."""
    normalize_advantage: bool = False
    """Scale the advantages of an update to mean 0 and deviation 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_envs * self.n_steps < 2:
            raise UsageError("n_envs * n_steps must be 2 or more, got 1")
        if self.use_rms_prop and self.optimizer == "adam" and self.optimizer_kwargs:
            told = "optimizer_kwargs are for the optimizer that is named, and use_rms_prop takes"
            raise UsageError(f"{told} RMSprop in the place of adam; choose optimizer rmsprop")


_ATARI = A2CConfig(total_timesteps=10_000_000, n_envs=16, ent_coef=0.01, vf_coef=0.25, net_arch=())
AGENT = Agent(
    A2CConfig,
    {  # values of rl-baselines3-zoo
        "CartPole-v1": A2CConfig(total_timesteps=500_000),
        "Acrobot-v1": A2CConfig(total_timesteps=500_000, n_envs=16, normalize="both"),
        "LunarLander-v3": A2CConfig(
            total_timesteps=200_000, gamma=0.995, learning_rate=8.3e-4,
            learning_rate_schedule="linear", ent_coef=1e-5,
        ),
        "Pendulum-v1": A2CConfig(
            normalize="both", n_steps=8, gae_lambda=0.9, vf_coef=0.4,
            learning_rate_schedule="linear", use_sde=True, log_std_init=-2.0, ortho_init=False,
        ),
        **dict.fromkeys(ATARI, _ATARI),
    },
    compiled=ppo.AGENT.compiled,
)  # fmt: skip
