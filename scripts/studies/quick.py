"""Return with and without memory, and likelihood, in minutes on two cores."""

import math
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

STUDY = Study(
    "quick",
    tasks=[
        agent("CartPoleNoVel-v1", "recurrent_ppo", arms=("none", "weight")),
        agent("CartPole-v1", "ppo"),
        Task(
            "digits",
            "mlp",
            "wnrl.vae.run:train",
            NLL,
            {"epochs": 100},
            length="epochs",
            floor=64 * math.log(17),
            margin=0.1,
        ),
    ],
    arms=[Arm(norm) for norm in FEED_FORWARD],
    baseline="none",
)
