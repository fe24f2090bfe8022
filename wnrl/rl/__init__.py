"""Agents of stable-baselines3 as runs: environments side by side, evaluation, replay, recording."""
