"""Return against the length of what has to be remembered: an hour on two cores.

The sign at the start of a T-maze is seen once; who has forgotten it at the junction can only guess.
"""

from scripts.studies._tasks import FEED_FORWARD, agent
from wnrl.study import Arm, Study
from wnrl.tensor_envs import World

RECURRENT_PPO = {
    "total_timesteps": 30_720,
    "n_envs": 16,
    "n_steps": 64,
    "batch_size": 256,
    "n_epochs": 8,
    "gamma": 0.98,
    "gae_lambda": 0.9,
    "ent_coef": 0.01,
    "net_arch": (32,),
    "lstm_hidden_size": 32,
    "ortho_init": False,
}

STUDY = Study(
    "memory",
    tasks=[
        agent(
            World("TMaze-v0", memory=cells).id,
            "recurrent_ppo",
            settings=RECURRENT_PPO,
            floor=0.0,  # of a guess at the junction
            solved=0.9,
            # Into walls till time is up, or half of the time before a wrong turn.
            limits=(min(-0.2 * (cells + 1), -1 - 0.1 * (cells + 1)), 1.0),
            dial=("cells to remember over", float(cells)),
        )
        for cells in (4, 8, 16, 32)
    ],
    arms=list(map(Arm, FEED_FORWARD)),
    baseline="none",
    seeds=range(20),
    tuned={"learning_rate": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)},
    tuning_seeds=range(1000, 1008),
)
