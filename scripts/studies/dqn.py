"""DQN of the weight norm paper, with seeds, on MinAtar's games: a day on a GPU.

``--algos dqn-breakout --norms none weight --budget 0.1 --engine population`` is an hour on two
cores.
"""

from scripts.studies._tasks import agent
from wnrl.study import BEST_RETURN, Arm, Study

GAMES = ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")

STUDY = Study(
    "dqn",
    tasks=[
        agent(
            f"MinAtar{game}-v1",
            "dqn",
            settings={"total_timesteps": 1_000_000},
            also=(BEST_RETURN,),
            variant=game.lower(),
            floor=0.0,
        )
        for game in GAMES
    ],
    arms=list(map(Arm, ("none", "weight", "layer"))),
    baseline="none",
    seeds=range(10),
    tuned={"learning_rate": (1e-4, 3e-4, 1e-3, 3e-3)},
    tuning_seeds=range(1000, 1003),
)
