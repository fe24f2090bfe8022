"""Return with and without memory, and likelihood, every arm at its own rate: minutes on two cores.

Agents of one norm are trained as batches. ``weight_paper`` is the weight norm of the paper that it
is from: data-dependent initialisation, and output layers without it.
"""

from dataclasses import replace

from scripts.studies._tasks import DIGITS, FEED_FORWARD, cartpole
from wnrl.study import Arm, Study

SHORT, LONG = {"total_timesteps": 10_240}, {"total_timesteps": 20_480}
PAPER = {"data_init": 500, "norm_heads": False}

STUDY = Study(
    "quick",
    tasks=[
        cartpole("CartPoleNoVel-v1", "recurrent_ppo", settings=SHORT, arms=("none", "weight")),
        cartpole("CartPole-v1", "ppo", settings=LONG, arms=FEED_FORWARD),
        replace(DIGITS, arms=(*FEED_FORWARD, "weight_paper")),
    ],
    arms=[
        *map(Arm, FEED_FORWARD),
        Arm("weight_paper", "weight", settings=PAPER, colour="#56b4e9", dash="--"),
    ],
    baseline="none",
    seeds=range(10),
    tuned={"learning_rate": (1e-3, 3e-3, 1e-2)},
    tuning_seeds=range(1000, 1003),
)
