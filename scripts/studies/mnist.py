"""Likelihoods of real images: hours on two cores, minutes for ``--algos mlp`` and one seed."""

import math
from functools import partial

from wnrl.study import NLL, Arm, Study, Task

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
    arms=[
        *(Arm(norm) for norm in ("none", "weight", "batch", "layer")),
        Arm("weight_data_init", "weight", settings={"data_init": 500}, dash="--"),
        Arm("weight_plain_heads", "weight", settings={"norm_heads": False}, dash=":"),
    ],
    baseline="none",
)
