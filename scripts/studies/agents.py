"""What each algorithm learns with its preset: hours on two cores."""

from functools import partial

from scripts.studies import _tasks
from scripts.studies._tasks import FEED_FORWARD
from wnrl.study import BEST_RETURN, Arm, Study

best = {"also": (BEST_RETURN,)}
cartpole, pendulum = partial(_tasks.cartpole, **best), partial(_tasks.pendulum, **best)
SHORT, MEDIUM, LONG = ({"total_timesteps": n} for n in (10_000, 50_000, 100_000))
THREE = ("none", "weight", "layer")
CROSSQ = ("none", "weight", "batch_renorm", "renorm_from_1000", "projected")
TARGET = {"variant": "target", "arms": ("none", "weight", "projected")}

STUDY = Study(
    "agents",
    tasks=[
        pendulum("crossq", settings=SHORT, arms=CROSSQ),
        pendulum("crossq", settings={**SHORT, "tau": 0.005}, **TARGET),
        pendulum("sac", settings=SHORT, arms=FEED_FORWARD),
        cartpole("CartPole-v1", "dqn", settings=MEDIUM, arms=THREE),
        cartpole("CartPoleNoVel-v1", "recurrent_ppo", settings=LONG, arms=THREE),
        cartpole("CartPoleNoVel-v1", "ppo", settings=LONG, arms=("none", "weight")),
        cartpole("CartPole-v1", "ppo", settings=LONG, arms=FEED_FORWARD),
    ],
    arms=[
        *map(Arm, (*FEED_FORWARD, "batch_renorm", "projected")),
        # sb3-contrib's warm-up of 100 000 updates outlasts the task: until then it is batch norm.
        Arm("renorm_from_1000", "batch_renorm", {"warmup_steps": 1000}, dash="-"),
    ],
    baseline="none",
)
