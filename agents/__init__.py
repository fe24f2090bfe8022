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
    "ppo": Agent(ppo.PPOConfig, ppo.PRESETS, compiled=ppo.COMPILED),
    "a2c": Agent(a2c.A2CConfig, a2c.PRESETS, compiled=ppo.COMPILED),
    "maskable_ppo": Agent(
        maskable_ppo.MaskablePPOConfig,
        maskable_ppo.PRESETS,
        not_compiled=maskable_ppo.NOT_COMPILED,
    ),
    "trpo": Agent(trpo.TRPOConfig, trpo.PRESETS, not_compiled=trpo.NOT_COMPILED),
    "dqn": Agent(dqn.DQNConfig, dqn.PRESETS, dqn.VARIANTS, dqn.COMPILED),
    "qrdqn": Agent(qrdqn.QRDQNConfig, qrdqn.PRESETS, compiled=qrdqn.COMPILED),
    "sac": Agent(sac.SACConfig, sac.PRESETS, compiled=sac.COMPILED),
    "td3": Agent(td3.TD3Config, td3.PRESETS, compiled=td3.COMPILED),
    "ddpg": Agent(ddpg.DDPGConfig, ddpg.PRESETS, compiled=td3.COMPILED),
    "tqc": Agent(tqc.TQCConfig, tqc.PRESETS, compiled=sac.COMPILED),
    "crossq": Agent(crossq.CrossQConfig, crossq.PRESETS, crossq.VARIANTS, sac.COMPILED),
    "recurrent_ppo": Agent(
        recurrent_ppo.RecurrentPPOConfig,
        recurrent_ppo.PRESETS,
        not_compiled=recurrent_ppo.NOT_COMPILED,
    ),
}

__all__ = ["AGENTS", "Agent"]
