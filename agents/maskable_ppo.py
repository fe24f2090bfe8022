"""PPO that never takes an action which its environment rules out, sb3-contrib's, with a norm.

The environment has a method ``action_masks`` (sb3-contrib's word), or, as Gymnasium's Taxi, one
that is called ``action_mask`` and its masks in each ``info["action_mask"]``; a mask is true for the
actions that can be taken (Huang & Ontañón, 2022, arXiv:2006.14171).
"""

from dataclasses import dataclass

from agents.config import Agent, ClippedConfig, Imported


@dataclass(frozen=True)
class MaskablePPOConfig(ClippedConfig):
    """PPO's hyperparameters, with sb3-contrib's names; the defaults are sb3-contrib's."""

    algorithm = Imported("sb3_contrib:MaskablePPO")


AGENT = Agent(
    MaskablePPOConfig,
    {
        "Taxi-v4": MaskablePPOConfig(  # ours
            total_timesteps=200_000, n_steps=128, batch_size=256, learning_rate=1e-3, ent_coef=0.01
        ),
    },
    # Nothing is compiled: torch.compile cannot follow masks, whose shapes depend on data.
)
