"""What ``weight`` is made of, in return and in likelihood: half an hour on two cores.

Directions as torch draws weights or as the paper does, data-dependent initialisation, output layers
with or without the norm, and the rate of the lengths g: 8 is √k for the 64 inputs of a layer.
"""

from scripts.studies._tasks import DIGITS, PPO, cartpole
from wnrl.study import Arm, Study

PLAIN_HEADS = {"norm_heads": False}
DATA = {**PLAIN_HEADS, "data_init": 256}

STUDY = Study(
    "init",
    tasks=[DIGITS, cartpole("CartPole-v1", "ppo", settings=PPO)],
    arms=[
        Arm("none", settings=PLAIN_HEADS),
        Arm("none_data", "none", settings=DATA, dash="--"),
        Arm("weight", settings=PLAIN_HEADS),
        Arm("weight_heads", "weight", settings={"norm_heads": True}, colour="#56b4e9"),
        Arm("weight_paper_v", "weight", {"v_init_std": 0.05}, PLAIN_HEADS, colour="#009e73"),
        Arm("weight_data", "weight", settings=DATA, colour="#009e73", dash="--"),
        Arm("weight_paper", "weight", {"v_init_std": 0.05}, DATA, colour="#d55e00", dash="--"),
        Arm("weight_g3", "weight", {"g_rate": 3.0}, PLAIN_HEADS, colour="#e69f00", dash=":"),
        Arm("weight_g8", "weight", {"g_rate": 8.0}, PLAIN_HEADS, colour="#d55e00", dash=":"),
    ],
    baseline="none",
    seeds=range(20),
    tuned={"learning_rate": (1e-3, 3e-3, 1e-2, 3e-2)},
    tuning_seeds=range(1000, 1004),
)
