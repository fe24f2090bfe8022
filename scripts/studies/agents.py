"""What each algorithm learns with its preset: hours on two cores."""

from functools import partial

from wnrl.study import BEST_RETURN, RETURN, Arm, Study, Task

agent = partial(Task, runner="agents.run:train", metric=RETURN, also=(BEST_RETURN,))
cartpole = partial(agent, floor=22.0, solved=475.0)
pendulum = partial(agent, "Pendulum-v1", floor=-1200.0, solved=-200.0)
FEED_FORWARD = ("none", "weight", "batch", "layer")
SHORT, LONG = {"total_timesteps": 10_000}, {"total_timesteps": 100_000}

STUDY = Study(
    "agents",
    tasks=[
        pendulum(
            "crossq",
            settings=SHORT,
            arms=("none", "weight", "batch_renorm", "renorm_from_1000", "projected"),
        ),
        pendulum(
            "crossq",
            settings={**SHORT, "tau": 0.005},
            variant="target",
            arms=("none", "weight", "projected"),
        ),
        pendulum("sac", settings=SHORT, arms=FEED_FORWARD),
        cartpole(
            "CartPole-v1",
            "dqn",
            settings={"total_timesteps": 50_000},
            arms=("none", "weight", "layer"),
        ),
        cartpole(
            "CartPoleNoVel-v1", "recurrent_ppo", settings=LONG, arms=("none", "weight", "layer")
        ),
        cartpole("CartPoleNoVel-v1", "ppo", settings=LONG, arms=("none", "weight")),
        cartpole("CartPole-v1", "ppo", settings=LONG, arms=FEED_FORWARD),
    ],
    arms=[
        *(Arm(norm) for norm in (*FEED_FORWARD, "batch_renorm", "projected")),
        # sb3-contrib's warm-up of 100 000 updates outlasts the task: until then it is batch norm.
        Arm("renorm_from_1000", "batch_renorm", {"warmup_steps": 1000}, dash="-"),
    ],
    baseline="none",
)
