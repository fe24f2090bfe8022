"""The algorithms that train a population."""

from wnrl.population.cohort import Cohort
from wnrl.population.dqn import DQN
from wnrl.population.ppo import PPO
from wnrl.population.recurrent_ppo import RecurrentPPO

COHORTS: dict[str, type[Cohort]] = {"ppo": PPO, "recurrent_ppo": RecurrentPPO, "dqn": DQN}
"""By the words that agents have for them."""
