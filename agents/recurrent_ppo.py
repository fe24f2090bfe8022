"""PPO with an LSTM or a GRU, sb3-contrib's, with a norm."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from agents import ppo
from agents.config import Agent, Imported
from wnrl.limits import TwoOrMore, Whole


@dataclass(frozen=True)
class RecurrentPPOConfig(ppo.PPOConfig):
    """PPO's hyperparameters and those of the LSTM, with sb3-contrib's names and defaults.

    Raises:
        UsageError: a value with which training could not run.
    """

    algorithm = Imported("sb3_contrib:RecurrentPPO")

    n_steps: Whole = 128
    """Steps of each environment between updates; the longest sequence to learn from."""
    batch_size: TwoOrMore = 128
    """Samples in a minibatch, in whole sequences."""
    cell: Literal["lstm", "gru"] = "lstm"
    """Kind of recurrent layer; the next four fields are of either kind."""
    lstm_hidden_size: Whole = 256
    """Units of each LSTM layer."""
    n_lstm_layers: Whole = 1
    """LSTM layers on top of one another."""
    shared_lstm: bool = False
    """One LSTM for policy and value; only the policy trains it."""
    enable_critic_lstm: bool = True
    """An LSTM of its own for the value; without it and without shared_lstm, a linear layer."""


def _like_ppo(task: str, **changes: Any) -> RecurrentPPOConfig:
    return RecurrentPPOConfig(**{**asdict(ppo.AGENT.presets[task]), **changes})


_LSTM: dict[str, Any] = {
    "ortho_init": False, "activation_fn": "relu", "net_arch": (64,), "lstm_hidden_size": 64,
}  # fmt: skip
AGENT = Agent(
    RecurrentPPOConfig,
    {  # tuned values of rl-baselines3-zoo
        "CartPoleNoVel-v1": _like_ppo("CartPoleNoVel-v1", **_LSTM),
        "PendulumNoVel-v1": _like_ppo("Pendulum-v1", batch_size=128, **_LSTM),
        "LunarLanderNoVel-v3": _like_ppo(
            "LunarLander-v3", n_envs=32, total_timesteps=5_000_000, n_steps=512, batch_size=128,
            **_LSTM,
        ),
        "TMaze-*": _like_ppo("TMaze-*", lstm_hidden_size=32),  # ours
    },
    # Nothing is compiled: torch.compile has no LSTM with gradients.
)  # fmt: skip
