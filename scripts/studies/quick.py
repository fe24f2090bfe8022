"""Return with and without memory, and likelihood, in minutes on two cores."""

from wnrl.study import NLL, RETURN, Arm, Study, Task

AGENT, VAE = "agents.run:train", "wnrl.vae.run:train"
FEED_FORWARD = ("none", "weight", "batch", "layer")

STUDY = Study(
    "quick",
    tasks=[
        Task(
            "CartPoleNoVel-v1",
            "recurrent_ppo",
            AGENT,
            RETURN,
            {"total_timesteps": 20_480},
            arms=("none", "weight"),
        ),
        Task("CartPole-v1", "ppo", AGENT, RETURN, {"total_timesteps": 20_480}),
        Task("digits", "mlp", VAE, NLL, {"epochs": 100}, length="epochs"),
    ],
    arms=[Arm(norm) for norm in FEED_FORWARD],
    baseline="none",
)
