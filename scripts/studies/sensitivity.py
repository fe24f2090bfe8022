"""How much each norm needs its settings chosen anew for each task: an hour on two cores.

The question of Adkins, Bowling & White (2024, arXiv:2412.07165), who asked it of variants of PPO
that scale observations or rewards: ``obs`` and ``reward`` are such. ``wnrl.study.sensitivity`` has
the two measures.
"""

from scripts.studies._tasks import FEED_FORWARD, PPO, agent, cartpole
from wnrl.study import Arm, Study
from wnrl.tensor_envs import World

STUDY = Study(
    "sensitivity",
    tasks=[
        agent("Acrobot-v1", "ppo", settings=PPO, floor=-500.0, solved=-100.0, limits=(-500.0, 0.0)),
        cartpole("CartPole-v1", "ppo", settings=PPO),
        cartpole(World("CartPole-v1", obs_noise=0.1).id, "ppo", settings=PPO),
    ],
    arms=[
        *map(Arm, FEED_FORWARD),
        Arm("obs", "none", settings={"normalize": "obs"}, colour="#56b4e9", dash="--"),
        Arm("reward", "none", settings={"normalize": "reward"}, colour="#e69f00", dash=":"),
    ],
    baseline="none",
    seeds=range(20),
    tuned={
        "learning_rate": (3e-4, 1e-3, 3e-3, 1e-2),
        "gae_lambda": (0.8, 0.95),
        "ent_coef": (0.001, 0.01),
    },
    tuning_seeds=range(1000, 1010),
)
