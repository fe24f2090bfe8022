import dataclasses
import math
from contextlib import closing

import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import CartPoleEnv
from stable_baselines3.common.callbacks import BaseCallback

import envs
from agents import AGENTS
from wnrl import NORMS
from wnrl.errors import NonFiniteError
from wnrl.rl.environments import vectorize, vectorize_for_evaluation
from wnrl.rl.evaluation import Curve, evaluate, evaluate_point
from wnrl.rl.run import learn, log_to
from wnrl.runs import EventFile

TINY = {"n_envs": 2, "n_steps": 16, "batch_size": 16, "n_epochs": 2, "net_arch": (8,)}


def agent(algo="ppo", norm="none", **changes):
    preset = AGENTS[algo].preset("CartPoleNoVel-v1")
    if algo == "recurrent_ppo":
        changes["lstm_hidden_size"] = 8
    sizes = {name: size for name, size in TINY.items() if hasattr(preset, name)}
    config = dataclasses.replace(preset, **sizes, **changes)
    env = vectorize(envs.factory("CartPoleNoVel-v1"), config.n_envs, 0)
    return AGENTS[algo].build(config, env, norm, 0, "cpu")


@pytest.mark.parametrize("learning_rate", [1e20, 1e30])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("algo", ["ppo", "recurrent_ppo"])
def test_training_that_blows_up_is_told_in_one_line(algo, norm, learning_rate):
    model = agent(algo, norm, learning_rate=learning_rate)
    with pytest.raises(NonFiniteError, match=r"^not finite after \d+ steps: \S.*\S$") as raised:
        learn(model, 320)
    assert "\n" not in str(raised.value)


def test_an_agent_that_is_not_finite_is_not_evaluated(tmp_path):
    model = agent("dqn")
    log_to(model, EventFile(tmp_path))
    with torch.no_grad():
        next(model.policy.parameters()).fill_(math.nan)
    with closing(vectorize_for_evaluation(envs.factory("CartPoleNoVel-v1"), 1, None)) as env:
        curve = Curve(32)
        with pytest.raises(NonFiniteError, match="after 0 steps: q_net"):
            evaluate_point(model, env, curve, 1, seed=0)
    assert curve.returns == []


class Refuse(BaseCallback):
    """An environment, say, that takes no such action."""

    def _on_step(self):
        raise ValueError("no such action")


def test_an_error_that_has_nothing_to_do_with_numbers_is_passed_on():
    with pytest.raises(ValueError, match=r"^no such action$") as raised:
        learn(agent(), 32, Refuse())
    assert not isinstance(raised.value, NonFiniteError)


def test_an_agent_whose_finite_weights_overflow_cannot_be_evaluated():
    model = agent()
    learn(model, 32)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.fill_(3e38)
    with (
        closing(vectorize_for_evaluation(envs.factory("CartPoleNoVel-v1"), 2, model.env)) as env,
        pytest.raises(NonFiniteError, match=r"after 32 steps: torch\.distributions: Expected"),
    ):
        evaluate(model, env, 2, seed=0)


def test_training_that_goes_on_makes_the_steps_that_are_left():
    model = agent()
    learn(model, 64)
    learn(model, 96, resumed=True)
    assert model.num_timesteps == 96
    learn(model, 96, resumed=True)
    assert model.num_timesteps == 96


class Broken(CartPoleEnv):
    """Gives one thing that is not finite, at the end of an episode."""

    part, value = "reward", math.nan

    def reset(self, **kwargs):
        self.steps = 0
        return super().reset(**kwargs)

    def step(self, action):
        self.steps += 1
        obs, reward, terminated, truncated, info = super().step(action)
        truncated = self.steps > 30
        if terminated or truncated:  # a last observation is one to learn from
            if self.part == "reward":
                reward = self.value
            else:
                obs = np.full_like(obs, self.value)
        return obs, reward, terminated, truncated, info


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("part", ["reward", "observation"])
@pytest.mark.parametrize("algo", ["ppo", "dqn"])
@pytest.mark.parametrize("normalize", ["both", "none"])
def test_what_came_first_of_an_observation_and_a_reward_is_told(algo, part, value, normalize):
    def broken():
        env = Broken()
        env.part, env.value = part, value
        return env

    config = dataclasses.replace(
        AGENTS[algo].config(),
        n_envs=2,
        **({"n_steps": 16, "batch_size": 16} if algo == "ppo" else {}),
    )
    model = AGENTS[algo].build(config, vectorize(broken, 2, 0, normalize), "weight", 0, "cpu")
    told = rf"^not finite after \d+ steps: {value} in what the environment gives as {part}$"
    with pytest.raises(NonFiniteError, match=told):
        learn(model, 320)
    with (
        closing(vectorize_for_evaluation(broken, 2, model.env)) as env,
        pytest.raises(NonFiniteError, match=told),
    ):
        evaluate(model, env, 2, seed=0)
