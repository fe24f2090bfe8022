"""Likelihoods of real images: hours on two cores, one for ``--algos mlp`` and one seed."""

import math
from functools import partial

from scripts.studies.digits import all_arms
from wnrl.study import NLL, Study, Task

vae = partial(
    Task,
    runner="wnrl.vae.run:train",
    metric=NLL,
    length="epochs",
    floor=784 * math.log(2),
    margin=0.1,
)
PAIR = ("none", "weight")

STUDY = Study(
    "mnist",
    tasks=[
        vae("mnist", "conv", settings={"epochs": 5}, arms=PAIR),
        vae("mnist", "draw", settings={"epochs": 10}, arms=PAIR),
        vae("mnist", "mlp", settings={"epochs": 20}),
        vae("mnist-static", "mlp", settings={"epochs": 20}, arms=PAIR),
    ],
    arms=all_arms({"batch_renorm": {"warmup_steps": 1000, "r_steps": 5000, "d_steps": 5000}}),
    baseline="none",
)
