"""Return with and without memory, and likelihood, every arm at its own rate: minutes on two cores.

Agents of one norm are trained as batches. ``weight_paper`` is the weight norm of the paper that it
is from: data-dependent initialisation, and output layers without it.
"""

import math
from dataclasses import replace
from functools import partial

from wnrl.study import NLL, RETURN, Arm, Study, Task

FEED_FORWARD = ("none", "weight", "batch", "layer")
agent = partial(
    Task,
    runner="agents.run:train",
    metric=RETURN,
    settings={"total_timesteps": 20_480},
    floor=22.0,
    solved=475.0,
)
DIGITS = Task(
    "digits",
    "mlp",
    "wnrl.vae.run:train",
    NLL,
    {"epochs": 40},
    length="epochs",
    floor=64 * math.log(17),
    margin=0.1,
)

STUDY = Study(
    "quick",
    tasks=[
        agent(
            "CartPoleNoVel-v1",
            "recurrent_ppo",
            settings={"total_timesteps": 10_240},
            arms=("none", "weight"),
        ),
        agent("CartPole-v1", "ppo", arms=FEED_FORWARD),
        replace(DIGITS, arms=(*FEED_FORWARD, "weight_paper")),
    ],
    arms=[
        *(Arm(norm) for norm in FEED_FORWARD),
        Arm(
            "weight_paper",
            "weight",
            settings={"data_init": 500, "norm_heads": False},
            colour="#56b4e9",
            dash="--",
        ),
    ],
    baseline="none",
    seeds=range(10),
    tuned={"learning_rate": (1e-3, 3e-3, 1e-2)},
    tuning_seeds=range(1000, 1003),
)
