"""CartPole as it is, seen with noise, and without velocities by an LSTM: an hour on two cores.

Every arm has its own of five rates and 24 runs of each task, which are trained as batches. Made
again with a ``--first-seed`` of 24 or more it shares no random number with the first.
"""

from scripts.studies._tasks import FEED_FORWARD, PPO, cartpole
from wnrl.study import Arm, Study
from wnrl.tensor_envs import World

STUDY = Study(
    "cartpole",
    tasks=[
        cartpole("CartPole-v1", "ppo", settings=PPO),
        cartpole(World("CartPole-v1", obs_noise=0.1).id, "ppo", settings=PPO),
        cartpole("CartPoleNoVel-v1", "recurrent_ppo", settings={"total_timesteps": 20_480}),
    ],
    arms=list(map(Arm, FEED_FORWARD)),
    baseline="none",
    seeds=range(24),
    tuned={"learning_rate": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)},
    tuning_seeds=range(1000, 1008),
)
