"""Truncated quantile critics (Kuznetsov et al., 2020, arXiv:2005.04269), sb3-contrib's."""

from dataclasses import asdict, dataclass

from agents import sac
from agents.config import Agent, Imported
from wnrl.errors import UsageError
from wnrl.limits import Whole, WholeFromZero


@dataclass(frozen=True)
class TQCConfig(sac.SACConfig):
    """SAC's hyperparameters and those of the quantiles, with sb3-contrib's names and defaults.

    Raises:
        UsageError: a value with which training could not run.
    """

    algorithm = Imported("sb3_contrib:TQC")

    n_quantiles: Whole = 25
    """Quantiles of the return's distribution for each critic."""
    top_quantiles_to_drop_per_net: WholeFromZero = 2
    """Highest quantiles that the target leaves out, for each critic."""

    def __post_init__(self) -> None:
        super().__post_init__()
        dropped, n = self.top_quantiles_to_drop_per_net, self.n_quantiles
        if dropped >= n:
            told = f"top_quantiles_to_drop_per_net {dropped} leaves none of n_quantiles {n}"
            raise UsageError(told)


# Presets of SAC; so are rl-baselines3-zoo's own for LunarLander.
AGENT = Agent(
    TQCConfig,
    {task: TQCConfig(**asdict(preset)) for task, preset in sac.AGENT.presets.items()},
    compiled=sac.AGENT.compiled,
)
