"""Tasks that several of the shipped studies have."""

import math
from functools import partial

from wnrl.study import NLL, RETURN, Task

FEED_FORWARD = ("none", "weight", "batch", "layer")
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

agent = partial(Task, runner="agents.run:train", metric=RETURN)
cartpole = partial(agent, floor=22.0, solved=475.0, limits=(0.0, 500.0))
pendulum = partial(agent, "Pendulum-v1", floor=-1200.0, solved=-200.0)
vae = partial(Task, runner="wnrl.vae.run:train", metric=NLL, length="epochs", margin=0.1)
DIGITS = vae("digits", "mlp", settings={"epochs": 40}, floor=64 * math.log(17))
