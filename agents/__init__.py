"""Algorithms of stable-baselines3 with a norm: what to train, and how it is put together."""

from agents import (
    a2c,
    crossq,
    ddpg,
    dqn,
    maskable_ppo,
    ppo,
    qrdqn,
    recurrent_ppo,
    sac,
    td3,
    tqc,
    trpo,
)
from agents.presets import Agent

AGENTS: dict[str, Agent] = {
    module.__name__.removeprefix("agents."): module.AGENT
    for module in (ppo, a2c, maskable_ppo, trpo, dqn, qrdqn, sac, td3, ddpg, tqc, crossq,
                   recurrent_ppo)
}  # fmt: skip
"""One row an algorithm, by the name of its file."""

__all__ = ["AGENTS", "Agent"]
