"""What keeps CrossQ stable when it learns more from each step: a day on a GPU.

Batch renormalisation, rows of weights on the unit sphere, both, neither, at 1, 5 and 20 gradient
steps a step of the environment. ``--budget 0.1`` and eight seeds are a night on two cores.
"""

from scripts.studies._tasks import pendulum
from wnrl.study import BEST_RETURN, Arm, Study

# sb3-contrib's warm-up of 100 000 updates, with batch norm, outlasts a short run.
RENORM = {"policy_kwargs": {"renorm_warmup_steps": 1000}}
ALONE = {"policy_kwargs": {"batch_norm": False}}

STUDY = Study(
    "crossq",
    tasks=[pendulum("crossq", settings={"total_timesteps": 20_000}, also=(BEST_RETURN,))],
    arms=[
        Arm("none"),
        Arm("batch_renorm", norm_kwargs={"warmup_steps": 1000}),
        Arm("projected", settings=ALONE),
        Arm("renorm_projected", "projected", settings=RENORM, colour="#D55E00", dash="--"),
    ],
    baseline="none",
    seeds=range(10),
    axes={"gradient_steps": (1, 5, 20)},
    tuned={"learning_rate": (3e-4, 1e-3, 3e-3)},
    tuning_seeds=range(1000, 1003),
)
