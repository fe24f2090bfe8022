"""Deep Q-learning with hindsight on flipping bits: what a rate of its own for g is worth there.

    python scripts/bench/g_rate.py

Every arm learns from the same seeds; the table shows the successes of the last network in a hundred
episodes, the mean over the seeds and each of them. One core takes some four minutes.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scripts import _cli
from wnrl.errors import check_positive

ARMS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "plain": ("MultiInputPolicy", {}),
    "weight": ("WNMultiInputPolicy", {}),
    "weight, g_rate 8": ("WNMultiInputPolicy", {"norm_kwargs": {"g_rate": 8.0}}),
    "weight, g_rate 8, heads": (
        "WNMultiInputPolicy",
        {"norm_kwargs": {"g_rate": 8.0}, "norm_heads": True},
    ),
    "layer": ("LayerMultiInputPolicy", {}),
}
"""A policy and its arguments by name."""


@dataclass(frozen=True)
class Args:
    """Flags."""

    steps: int = 1_200
    """Environment steps of each agent."""
    seeds: int = 8
    """Agents of each arm."""
    bits: int = 10
    """Bits to flip, and steps to do so in."""

    def __post_init__(self) -> None:
        check_positive(steps=self.steps, seeds=self.seeds, bits=self.bits)


if __name__ == "__main__":
    _cli.begin(Args, __doc__)

import torch
from stable_baselines3 import DQN, HerReplayBuffer
from stable_baselines3.common.envs import BitFlippingEnv

import wnrl.sb3  # noqa: F401  # registers the policies


def successes(policy: str, policy_kwargs: Mapping[str, Any], seed: int, args: Args) -> int:
    """Train one agent and return its successes in a hundred episodes."""
    env: Any = BitFlippingEnv(n_bits=args.bits, continuous=False, max_steps=args.bits)
    model = DQN(
        policy,
        env,
        replay_buffer_class=HerReplayBuffer,
        learning_rate=5e-4,
        buffer_size=100_000,
        batch_size=64,
        train_freq=1,
        gamma=0.95,
        target_update_interval=200,
        exploration_fraction=0.3,
        exploration_final_eps=0.02,
        policy_kwargs={"net_arch": [64, 64], **policy_kwargs},
        seed=seed,
        device="cpu",
    ).learn(args.steps)
    won = 0
    for episode in range(100):
        obs, _ = env.reset(seed=1_000 if episode == 0 else None)
        done = False
        while not done:
            action, _ = model.predict(obs, deterministic=True)
            obs, _, terminated, truncated, info = env.step(action)
            done = terminated or truncated
        won += int(info["is_success"])
    return won


def main(args: Args) -> None:
    """Train every arm and print the table."""
    torch.set_num_threads(1)
    print("| arm | successes of 100 | each seed |\n| --- | --- | --- |")
    for name, (policy, kwargs) in ARMS.items():
        won = [successes(policy, kwargs, seed, args) for seed in range(args.seeds)]
        each = ", ".join(map(str, sorted(won)))
        print(f"| {name} | {sum(won) / len(won):.0f} | {each} |", flush=True)


if __name__ == "__main__":
    _cli.run(main, Args, description=__doc__)
