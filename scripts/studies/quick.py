"""Return with and without memory, and likelihood, every arm at its own rate: minutes on two cores.

Agents of one norm are trained as batches. Runs of PPO, which are cheap and differ most, have all
seeds, the others half of them. ``weight_paper`` is the weight norm of the paper that it is from:
data-dependent initialisation, and output layers without it.
"""

from dataclasses import replace
from typing import Any

from scripts.studies._tasks import DIGITS, FEED_FORWARD, cartpole
from wnrl.study import Arm, Study

SHORT, LONG = {"total_timesteps": 10_240}, {"total_timesteps": 20_480}
MEMORY: dict[str, Any] = {"arms": ("none", "weight"), "seed_share": 0.5}
PAPER = {"data_init": 500, "norm_heads": False}

STUDY = Study(
    "quick",
    tasks=[
        cartpole("CartPoleNoVel-v1", "recurrent_ppo", settings=SHORT, **MEMORY),
        cartpole("CartPole-v1", "ppo", settings=LONG, arms=FEED_FORWARD),
        replace(DIGITS, arms=(*FEED_FORWARD, "weight_paper"), seed_share=0.5),
    ],
    arms=[
        *map(Arm, FEED_FORWARD),
        Arm("weight_paper", "weight", settings=PAPER, colour="#56b4e9", dash="--"),
    ],
    baseline="none",
    seeds=range(20),
    tuned={"learning_rate": (1e-3, 3e-3, 1e-2)},
    tuning_seeds=range(1000, 1005),
)
