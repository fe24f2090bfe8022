"""The algorithms that train a population."""

from wnrl.population.ppo import PPO

COHORTS: dict[str, type[PPO]] = {"ppo": PPO}
"""By the words that agents have for them."""
