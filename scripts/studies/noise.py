"""Return against noise in what is observed, each norm at its own rate: 20 minutes on two cores.

Runs of one norm are trained as batches. The noise is normal, of one deviation for all four numbers;
the pole falls at an angle of 0.21.
"""

from scripts.studies._tasks import FEED_FORWARD, PPO, cartpole
from wnrl.study import Arm, Study
from wnrl.tensor_envs import World

STUDY = Study(
    "noise",
    tasks=[
        cartpole(
            World("CartPole-v1", obs_noise=deviation).id,
            "ppo",
            settings=PPO,
            dial=("deviation of the noise", deviation),
        )
        for deviation in (0.0, 0.02, 0.05, 0.1, 0.2)
    ],
    arms=list(map(Arm, FEED_FORWARD)),
    baseline="none",
    seeds=range(40),
    tuned={"learning_rate": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)},
    tuning_seeds=range(1000, 1015),
)
