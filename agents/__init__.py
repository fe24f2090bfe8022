"""Algorithms of stable-baselines3 with a norm: what to train, and how it is put together."""

from agents import ppo, recurrent_ppo
from agents.common import Agent, vectorize, vectorize_for_evaluation

AGENTS: dict[str, Agent] = {
    "ppo": Agent(ppo.PPOConfig, ppo.PRESETS, ppo.build),
    "recurrent_ppo": Agent(
        recurrent_ppo.RecurrentPPOConfig, recurrent_ppo.PRESETS, recurrent_ppo.build
    ),
}

__all__ = ["AGENTS", "Agent", "vectorize", "vectorize_for_evaluation"]
