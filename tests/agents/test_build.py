import dataclasses
from contextlib import closing

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO

import envs
from agents import AGENTS, vectorize, vectorize_for_evaluation
from agents.common import policy_name
from agents.evaluation import evaluate
from agents.training import log_to
from wnrl.errors import UsageError

TINY = {"n_envs": 2, "n_steps": 16, "batch_size": 16, "n_epochs": 2, "total_timesteps": 32}


def tiny(algo, env_id):
    return dataclasses.replace(AGENTS[algo].preset(env_id), **TINY)


def build(algo, env_id, norm="weight", **others):
    config = tiny(algo, env_id)
    env = vectorize(envs.factory(env_id), config.n_envs, 0, config.normalize, config.gamma)
    return AGENTS[algo].build(config, env, norm, 0, "cpu", **others)


@pytest.mark.parametrize(
    ("algo", "env_id"),
    [
        ("ppo", "CartPole-v1"),
        ("ppo", "Acrobot-v1"),
        ("ppo", "Pendulum-v1"),
        ("recurrent_ppo", "CartPoleNoVel-v1"),
        ("recurrent_ppo", "PendulumNoVel-v1"),
    ],
)
def test_presets_train(algo, env_id):
    model = build(algo, env_id)
    before = model.policy.parameters_to_vector()
    model.learn(64)  # two updates: a linear schedule has come to zero in the last one
    assert model.num_timesteps == 64
    assert not np.array_equal(model.policy.parameters_to_vector(), before)


def test_every_hyperparameter_reaches_sb3():
    model = build("recurrent_ppo", "CartPoleNoVel-v1", "none")
    assert isinstance(model, RecurrentPPO)
    assert (model.n_steps, model.batch_size, model.n_epochs) == (16, 16, 2)
    assert (model.gamma, model.gae_lambda, model.ent_coef) == (0.98, 0.8, 0.0)
    assert model.lr_schedule(0.5) == pytest.approx(5e-4)
    assert model.clip_range(0.5) == pytest.approx(0.1)
    assert model.policy.lstm_actor.hidden_size == 64
    assert model.policy.activation_fn is torch.nn.ReLU
    assert model.policy.net_arch == [64]
    assert model.get_vec_normalize_env().gamma == 0.98


def test_a_model_with_schedules_survives_saving(tmp_path):
    model = build("ppo", "CartPole-v1").learn(32)
    model.save(tmp_path / "model.zip")
    again = PPO.load(tmp_path / "model.zip", device="cpu")
    assert again.lr_schedule(0.25) == pytest.approx(2.5e-4)


def test_events_land_in_the_run_folder_itself(tmp_path):
    build("ppo", "CartPole-v1", run_dir=tmp_path).learn(64)
    names = [path.name for path in tmp_path.rglob("*")]
    assert len(names) == 1
    assert names[0].startswith("events.out.tfevents")


def test_a_folder_can_be_chosen_after_building(tmp_path):
    model = build("recurrent_ppo", "CartPoleNoVel-v1")
    log_to(model, tmp_path)
    model.learn(64)
    assert [path.name[:6] for path in tmp_path.rglob("*")] == ["events"]


@pytest.mark.parametrize(
    ("space", "name"),
    [
        (spaces.Box(-1, 1, (3,)), "WNMlpPolicy"),
        (spaces.Discrete(3), "WNMlpPolicy"),
        (spaces.Box(0, 255, (40, 40, 3), np.uint8), "WNCnnPolicy"),
        (spaces.Dict({"a": spaces.Discrete(2)}), "WNMultiInputPolicy"),
    ],
)
def test_the_policy_fits_the_observations(space, name):
    assert policy_name(space) == name
    assert policy_name(space, recurrent=True) == name.replace("Policy", "LstmPolicy")


@pytest.mark.parametrize(
    ("seen", "acted", "changes", "message"),
    [
        (spaces.Text(4), spaces.Discrete(2), {}, "observations must be"),
        (spaces.Discrete(2), spaces.Dict({"a": spaces.Discrete(2)}), {}, "actions must be"),
        (spaces.Discrete(2), spaces.Discrete(2), {"use_sde": True}, "use_sde needs continuous"),
    ],
)
@pytest.mark.parametrize("algo", AGENTS)
def test_spaces_that_do_not_fit_are_refused(algo, seen, acted, changes, message):
    class Spaces:
        observation_space, action_space = seen, acted

    config = AGENTS[algo].config(**changes)
    with pytest.raises(UsageError, match=message):
        AGENTS[algo].build(config, Spaces(), "weight", 0, "cpu")


class Picture(gym.Env):
    """Three steps of noise in channel-last pictures."""

    def __init__(self):
        self.observation_space = spaces.Box(0, 255, (36, 36, 1), np.uint8)
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 3
        return self.picture(), {}

    def step(self, action):
        self.left -= 1
        return self.picture(), 1.0, self.left == 0, False, {}

    def picture(self):
        return self.np_random.integers(0, 256, (36, 36, 1), np.uint8)


@pytest.mark.parametrize("algo", AGENTS)
def test_agents_of_pictures_train_and_are_evaluated(algo):
    config = dataclasses.replace(AGENTS[algo].config(), **TINY)
    model = AGENTS[algo].build(config, vectorize(Picture, 2, 0), "weight", 0, "cpu")
    model.learn(32)
    with closing(vectorize_for_evaluation(Picture, 2, model.env)) as env:
        returns, lengths = evaluate(model, env, 3, seed=1)
    assert returns == [3.0] * 3
    assert lengths == [3] * 3
