"""Return against noise in what is observed, every norm at its own rate: minutes on two cores.

Runs of one norm are trained as batches. The noise is normal, of one deviation for all four numbers;
the pole falls at an angle of 0.21.
"""

from wnrl.study import RETURN, Arm, Study, Task
from wnrl.tensor_envs import World

PPO = {
    "total_timesteps": 20_480,
    "n_envs": 8,
    "n_steps": 32,
    "batch_size": 256,
    "n_epochs": 20,
    "gamma": 0.98,
    "gae_lambda": 0.8,
    "learning_rate_schedule": "linear",
    "clip_range_schedule": "linear",
}

STUDY = Study(
    "noise",
    tasks=[
        Task(
            World("CartPole-v1", obs_noise=deviation).id,
            "ppo",
            "agents.run:train",
            RETURN,
            PPO,
            floor=22.0,
            solved=475.0,
            dial=("deviation of the noise", deviation),
        )
        for deviation in (0.0, 0.02, 0.05, 0.1, 0.2)
    ],
    arms=[Arm(norm) for norm in ("none", "weight", "batch", "layer")],
    baseline="none",
    seeds=range(20),
    tuned={"learning_rate": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)},
    tuning_seeds=range(1000, 1005),
)
