"""Algorithms of stable-baselines3 with a norm: what to train, and how it is put together."""

from importlib import import_module

from agents.config import Agent

ALGORITHMS = (
    "ppo", "a2c", "maskable_ppo", "trpo", "dqn", "qrdqn", "sac", "td3", "ddpg", "tqc", "crossq",
    "recurrent_ppo",
)  # fmt: skip
AGENTS: dict[str, Agent] = {name: import_module(f"agents.{name}").AGENT for name in ALGORITHMS}
"""One row an algorithm, by the name of its file."""

__all__ = ["AGENTS", "Agent"]
