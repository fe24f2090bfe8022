"""What each algorithm learns with its preset: hours on two cores."""

from functools import partial

from wnrl.study import BEST_RETURN, RETURN, Arm, Study, Task

agent = partial(Task, runner="agents.run:train", metric=RETURN)
FEED_FORWARD = ("none", "weight", "batch", "layer")
SHORT, LONG = {"total_timesteps": 10_000}, {"total_timesteps": 100_000}

STUDY = Study(
    "agents",
    tasks=[
        agent(
            "Pendulum-v1",
            "crossq",
            settings=SHORT,
            arms=("none", "weight", "batch_renorm", "projected"),
        ),
        agent(
            "Pendulum-v1",
            "crossq",
            settings={**SHORT, "tau": 0.005},
            variant="target",
            arms=("none", "weight", "projected"),
        ),
        agent("Pendulum-v1", "sac", settings=SHORT, arms=FEED_FORWARD),
        agent(
            "CartPole-v1",
            "dqn",
            settings={"total_timesteps": 50_000},
            also=(BEST_RETURN,),
            arms=("none", "weight", "layer"),
        ),
        agent("CartPoleNoVel-v1", "recurrent_ppo", settings=LONG, arms=("none", "weight", "layer")),
        agent("CartPoleNoVel-v1", "ppo", settings=LONG, arms=("none", "weight")),
        agent("CartPole-v1", "ppo", settings=LONG, arms=FEED_FORWARD),
    ],
    arms=[Arm(norm) for norm in (*FEED_FORWARD, "batch_renorm", "projected")],
    baseline="none",
)
