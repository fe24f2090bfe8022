"""SB3's PPO and sb3-contrib's, whose random numbers are written down as a population's draws."""

import gymnasium as gym
import numpy as np
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from torch.distributions import Normal

from wnrl.population.rollout import Draws
from wnrl.rl.statistics import statistics_of
from wnrl.tensor_envs import CartPole, Pendulum

LIMIT = 25


class ShortCartPole(CartPole):
    """CartPole whose time limit is reached by an untrained agent."""

    max_episode_steps = LIMIT


class ShortPendulum(Pendulum):
    """Pendulum with as short a limit."""

    max_episode_steps = LIMIT


def of_cartpole(obs):
    """Return the uniform numbers of the reset that gave observations."""
    return obs * 10 + 0.5


def of_pendulum(obs):
    """Return the uniform numbers of the reset that gave observations."""
    cos, sin, spin = obs.unbind(-1)
    return torch.stack((torch.atan2(sin, cos) / torch.pi, spin), -1) / 2 + 0.5


TO_UNIFORM = {"CartPole-v1": of_cartpole, "Pendulum-v1": of_pendulum}


class Record(BaseCallback):
    """Writes down actions and resets, step by step, and the parameters behind each update."""

    def __init__(self, env_id):
        super().__init__()
        self.env_id = env_id
        self.actions, self.resets, self.iterations, self.obs, self.states = [], [], [], [], []
        self.first_resets = None
        self.statistics = []

    def _on_rollout_start(self):
        if self.iterations:
            self._end_update()
        else:
            self.first_resets = self.to_uniform(self.model._last_obs)
        self.actions, self.resets = [], []

    def to_uniform(self, obs):
        """Return the uniform numbers of the resets that gave observations, as the agent sees."""
        normalizer = self.model.get_vec_normalize_env()
        raw = obs if normalizer is None else normalizer.get_original_obs()
        return TO_UNIFORM[self.env_id](torch.as_tensor(raw, dtype=torch.float64))

    def _distribution(self, given):
        """Return the distribution of actions that the step had."""
        policy, obs = self.model.policy, given["obs_tensor"]
        if not isinstance(self.model, RecurrentPPO):
            return policy.get_distribution(obs).distribution
        states = self.model._last_lstm_states.pi
        return policy.get_distribution(obs, states, given["episode_starts"])[0].distribution

    def _end_update(self):
        self.states.append({k: v.clone() for k, v in self.model.policy.state_dict().items()})
        normalizer = self.model.get_vec_normalize_env()
        self.statistics.append(None if normalizer is None else statistics_of(normalizer))

    def _on_step(self):
        given = self.locals
        with torch.no_grad():
            head = self._distribution(given)
        actions = torch.as_tensor(given["actions"])
        if isinstance(head, Normal):
            deviations = (actions - head.mean) / head.stddev
            self.actions.append(torch.special.ndtr(deviations.double()))
        else:  # the middle of the interval in which this action is drawn
            chosen = actions[:, None]
            below = head.probs.cumsum(-1).gather(-1, chosen)
            self.actions.append(below - head.probs.gather(-1, chosen) / 2)
        resets = self.to_uniform(given["new_obs"])
        resets[~torch.as_tensor(given["dones"])] = 0.5
        self.resets.append(resets)
        self.obs.append(given["obs_tensor"].clone())
        return True

    def _on_rollout_end(self):
        self.iterations.append((torch.stack(self.actions), torch.stack(self.resets)))

    def _on_training_end(self):
        self._end_update()


def run_sb3(config, policy, monkeypatch, algorithm=PPO, env_id="CartPole-v1"):
    """Return first resets, draws by iteration, and SB3's observations and parameters.

    Args:
        config: of the population's member.
        policy: name and arguments of SB3's policy.
        monkeypatch: of the test.
        algorithm: PPO or RecurrentPPO.
        env_id: one of ``TO_UNIFORM``, whose episodes are cut after ``LIMIT`` steps.
    """
    orders = []
    kind = "randint" if algorithm is RecurrentPPO else "permutation"
    draw = getattr(np.random, kind)

    def recorded(n):
        orders.append(torch.as_tensor(draw(n)))
        return orders[-1].numpy()

    env = make_vec_env(
        lambda: gym.make(env_id, max_episode_steps=LIMIT), config.n_envs, seed=config.seed
    )
    if config.normalize != "none":
        obs, reward = (config.normalize in (part, "both") for part in ("obs", "reward"))
        env = VecNormalize(env, norm_obs=obs, norm_reward=reward, gamma=config.gamma)
    name, arguments = policy
    linear = config.learning_rate_schedule == "linear"
    model = algorithm(
        name,
        env,
        learning_rate=(lambda left: config.learning_rate * left) if linear else 1e-3,
        clip_range=(lambda left: config.clip_range * left) if linear else 0.2,
        policy_kwargs={"net_arch": list(config.net_arch), **arguments},
        device="cpu",
        **{
            key: getattr(config, key)
            for key in ("n_steps", "batch_size", "n_epochs", "gamma", "gae_lambda", "ent_coef",
                        "vf_coef", "max_grad_norm", "normalize_advantage", "seed")
        },
    )  # fmt: skip
    record = Record(env_id)
    monkeypatch.setattr(np.random, kind, recorded)
    model.learn(config.total_timesteps, record)
    draws = []
    for k, (actions, resets) in enumerate(record.iterations):
        mine = orders[k * config.n_epochs : (k + 1) * config.n_epochs]
        draws.append(
            Draws(
                actions[:, None].float(),
                resets[:, None].float(),
                torch.stack(mine)[:, None],
            )
        )
    return record.first_resets.float()[None], draws, record


def assert_member_is_sb3s(cohort, draws, record):
    """Assert that a cohort of one acts and learns as SB3's agent did, iteration by iteration.

    Args:
        cohort: at the first resets.
        draws: of each iteration.
        record: from ``run_sb3``.
    """
    ended = 0
    for k, each in enumerate(draws):
        start = cohort.scaling.obs(cohort.statistics, cohort.running.episodes.obs)[0]
        expected = record.obs[k * cohort.config.n_steps]
        torch.testing.assert_close(start, expected, rtol=0, atol=1e-5)
        ended += (cohort.iterate(each).lengths == LIMIT).sum()
        statistics, expected = cohort.member_statistics(0) or {}, record.statistics[k] or {}
        assert statistics.keys() == expected.keys()
        for name, value in statistics.items():
            np.testing.assert_allclose(value, expected[name], 1e-4, 1e-5, err_msg=name)
        state, expected = cohort.member_state(0), dict(record.states[k])
        assert state.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(
                state[name].to(value.dtype), value, rtol=0, atol=2e-5, msg=f"{name} after {k}"
            )
    assert ended > 0, "no episode reached the time limit"
