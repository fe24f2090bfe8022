"""Likelihoods of real images: days on two cores; ``--algos mlp`` is minutes on a GPU."""

import math
from functools import partial

from scripts.studies._tasks import vae
from scripts.studies.digits import all_arms
from wnrl.study import Study

mnist = partial(vae, floor=784 * math.log(2))
PAIR = ("none", "weight")

STUDY = Study(
    "mnist",
    tasks=[
        mnist("mnist", "conv", settings={"epochs": 5}, arms=PAIR),
        mnist("mnist", "draw", settings={"epochs": 10}, arms=PAIR),
        mnist("mnist", "mlp", settings={"epochs": 20}),
        mnist("mnist-static", "mlp", settings={"epochs": 20}, arms=PAIR),
    ],
    arms=all_arms({"batch_renorm": {"warmup_steps": 1000, "r_steps": 5000, "d_steps": 5000}}),
    baseline="none",
    seeds=range(8),
    tuned={"learning_rate": (3e-4, 1e-3, 3e-3, 1e-2)},
    tuning_seeds=range(1000, 1003),
)
