"""SB3's DQN, whose random numbers are written down as a population's draws."""

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from tests.population.sb3_draws import LIMIT, of_cartpole

ARGUMENTS = (
    "learning_rate", "buffer_size", "learning_starts", "batch_size", "gamma", "train_freq",
    "gradient_steps", "target_update_interval", "exploration_fraction", "exploration_initial_eps",
    "exploration_final_eps", "max_grad_norm", "tau", "seed",
)  # fmt: skip


class Record(BaseCallback):
    """Writes down actions, resets and draws, iteration by iteration, and the states behind."""

    def __init__(self, monkeypatch, of_obs):
        super().__init__()
        self.of_obs = of_obs
        self.begun, self.states, self.rolls, self.drawn = [], [], [], []
        for name, kept in (("rand", self.rolls), ("randint", self.drawn)):
            monkeypatch.setattr(np.random, name, self.recorded(getattr(np.random, name), kept))

    def recorded(self, draw, kept):
        def function(*args, **kwargs):
            kept.append(draw(*args, **kwargs))
            return kept[-1]

        return function

    def _on_rollout_start(self):
        if self.begun:
            self._end_iteration()
        else:
            self.first_resets = self.of_obs(torch.as_tensor(self.model._last_obs).double())
        self.rolls.clear()
        self.drawn.clear()
        self.begun.append(([], [], []))

    def _on_step(self):
        explore, actions, resets = self.begun[-1]
        explore.append(self.rolls[-1] if self.rolls else 0.5)  # no roll in the warm-up
        actions.append(torch.as_tensor(self.locals["actions"]))
        fresh = self.of_obs(torch.as_tensor(self.locals["new_obs"]).double())
        fresh[~torch.as_tensor(self.locals["dones"])] = 0.5
        resets.append(fresh)
        return True

    def _end_iteration(self):
        explore, actions, resets = self.begun[-1]
        of_steps = (
            torch.tensor(explore)[:, None],
            torch.stack(actions)[:, None],
            torch.stack(resets)[:, None].float(),
        )
        rows, envs = (torch.as_tensor(np.array(self.drawn[k::2])) for k in (0, 1))
        places = (rows * self.training_env.num_envs + envs)[None] if len(rows) else None
        state = {k: v.clone() for k, v in self.model.policy.state_dict().items()}
        self.states.append(((of_steps, places), state))

    def _on_training_end(self):
        self._end_iteration()


def short_cartpole():
    """Return the environment of ``ShortCartPole``."""
    return gym.make("CartPole-v1", max_episode_steps=LIMIT)


def run_sb3(config, policy, monkeypatch, make=short_cartpole, of_obs=of_cartpole):
    """Return first resets, and of each iteration its draws and the policy's state behind it.

    Args:
        config: of the population's member.
        policy: name and arguments of SB3's policy.
        monkeypatch: of the test.
        make: makes an environment.
        of_obs: gives the uniform numbers of the reset that gave observations.
    """
    env = make_vec_env(make, config.n_envs, seed=config.seed)
    arguments = {name: getattr(config, name) for name in ARGUMENTS}
    if config.learning_rate_schedule == "linear":
        arguments["learning_rate"] = lambda left: config.learning_rate * left
    name, policy_kwargs = policy
    policy_kwargs = {"net_arch": list(config.net_arch), **policy_kwargs}
    model = DQN(name, env, policy_kwargs=policy_kwargs, device="cpu", **arguments)
    record = Record(monkeypatch, of_obs)
    model.learn(config.total_timesteps, record)
    return record.first_resets.float()[None], record.states
