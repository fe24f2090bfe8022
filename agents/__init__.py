"""Algorithms of stable-baselines3 with a norm: what to train, and how it is put together."""

from agents import a2c, crossq, dqn, ppo, qrdqn, recurrent_ppo, sac, td3, tqc, trpo
from agents.common import vectorize, vectorize_for_evaluation
from agents.presets import Agent

AGENTS: dict[str, Agent] = {
    "ppo": Agent(ppo.PPOConfig, ppo.PRESETS, ppo.build),
    "a2c": Agent(a2c.A2CConfig, a2c.PRESETS, a2c.build),
    "trpo": Agent(trpo.TRPOConfig, trpo.PRESETS, trpo.build),
    "dqn": Agent(dqn.DQNConfig, dqn.PRESETS, dqn.build, dqn.VARIANTS),
    "qrdqn": Agent(qrdqn.QRDQNConfig, qrdqn.PRESETS, qrdqn.build),
    "sac": Agent(sac.SACConfig, sac.PRESETS, sac.build),
    "td3": Agent(td3.TD3Config, td3.PRESETS, td3.build),
    "tqc": Agent(tqc.TQCConfig, tqc.PRESETS, tqc.build),
    "crossq": Agent(crossq.CrossQConfig, crossq.PRESETS, crossq.build, crossq.VARIANTS),
    "recurrent_ppo": Agent(
        recurrent_ppo.RecurrentPPOConfig, recurrent_ppo.PRESETS, recurrent_ppo.build
    ),
}

__all__ = ["AGENTS", "Agent", "vectorize", "vectorize_for_evaluation"]
