import dataclasses
import math
from contextlib import closing

import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback

import envs
from agents import AGENTS
from wnrl import NORMS
from wnrl.errors import NonFiniteError
from wnrl.rl.checkpoint import CHECKPOINT
from wnrl.rl.environments import vectorize, vectorize_for_evaluation
from wnrl.rl.evaluation import EvaluateInTraining, evaluate
from wnrl.rl.training import SaveCheckpoints, learn, log_to, save
from wnrl.runs.interrupts import Interrupts

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


@pytest.mark.parametrize("save", [True, False])
def test_an_agent_that_is_not_finite_is_neither_saved_nor_evaluated(tmp_path, save):
    model = agent("dqn")
    log_to(model, tmp_path)
    with torch.no_grad():
        next(model.policy.parameters()).fill_(math.nan)
    with closing(vectorize_for_evaluation(envs.factory("CartPoleNoVel-v1"), 1, None)) as env:
        point = EvaluateInTraining(env, 1, 1, 32, seed=0)
        callback = SaveCheckpoints(tmp_path, 0.0, dict, Interrupts()) if save else point
        callback.init_callback(model)
        with pytest.raises(NonFiniteError, match="after 0 steps: q_net"):
            callback.on_training_end()
    assert not (tmp_path / CHECKPOINT).exists()
    assert point.curve.returns == []


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


@pytest.mark.parametrize("prefix", ["", "best_"])
def test_an_agent_is_saved_with_its_statistics_under_its_prefix(tmp_path, prefix):
    model = agent()
    save(model, tmp_path, prefix)
    assert {path.name for path in tmp_path.iterdir()} == {f"{prefix}model.zip"}
    env = vectorize(envs.factory("CartPoleNoVel-v1"), 2, 0, normalize=True)
    model.set_env(env)
    save(model, tmp_path, prefix)
    names = {f"{prefix}model.zip", f"{prefix}vecnormalize.pkl"}
    assert {path.name for path in tmp_path.iterdir()} == names
