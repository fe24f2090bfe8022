import math

import pytest
import torch
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

import wnrl.sb3 as wn
from wnrl import tags
from wnrl.errors import NonFiniteError


class Poison(BaseCallback):
    """Puts a NaN into the network at the end of each rollout."""

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        with torch.no_grad():
            self.model.policy.value_net.bias.fill_(math.nan)


def ppo(**others):
    return PPO("WNMlpPolicy", "CartPole-v1", n_steps=16, batch_size=16, device="cpu", **others)


def stop(every):
    callback = wn.StopAtNonFinite()
    callback.every = every
    return callback


def test_training_stops_after_the_update_that_broke():
    with pytest.raises(NonFiniteError, match=r"after 16 steps: train/loss \(nan\), "):
        ppo(n_epochs=1).learn(64, [Poison(), stop(1)])


def test_a_loss_that_broke_is_seen_after_its_update_at_any_distance_of_looks():
    with pytest.raises(NonFiniteError, match=r"after 16 steps: train/loss \(nan\)$"):
        ppo(n_epochs=1).learn(64, [Poison(), stop(10_000)])


def test_training_that_breaks_in_its_last_update_fails_as_well():
    with pytest.raises(NonFiniteError, match=r"after 16 steps: train/loss \(nan\), "):
        ppo(n_epochs=1).learn(16, [Poison(), wn.StopAtNonFinite()])


def test_the_parameter_that_is_not_finite_is_named():
    model = ppo()
    model.set_logger(Logger(None, []))
    with torch.no_grad():
        model.policy.value_net.bias.fill_(math.inf)
    with pytest.raises(NonFiniteError, match=r"after 0 steps: value_net\.bias$"):
        wn.check_finite(model)


def test_a_loss_that_is_not_finite_is_named_with_its_value():
    model = ppo()
    model.set_logger(Logger(None, []))
    wn.check_finite(model)
    model.logger.record(tags.TRAIN_LOSS, math.inf)
    with pytest.raises(NonFiniteError, match=r"after 0 steps: train/loss \(inf\)$"):
        wn.check_finite(model)


def test_many_broken_parameters_make_a_short_message():
    model = ppo()
    model.set_logger(Logger(None, []))
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.fill_(math.nan)
    with pytest.raises(NonFiniteError, match=r"and \d+ more$") as raised:
        wn.check_finite(model)
    assert len(str(raised.value)) < 200


def test_healthy_training_is_not_stopped():
    assert ppo().learn(64, wn.StopAtNonFinite()).num_timesteps == 64


def test_parameters_are_looked_at_once_in_so_many_steps_and_at_the_end(monkeypatch):
    looks = []

    def look(model, parameters=True):
        if parameters:
            looks.append(model.num_timesteps)

    monkeypatch.setattr("wnrl.sb3.callbacks.check_finite", look)
    ppo().learn(128, stop(40))
    assert looks == [0, 48, 96, 128]
    looks.clear()
    model = DQN("WNMlpPolicy", "CartPole-v1", learning_starts=0, train_freq=1, device="cpu")
    model.learn(30, stop(10))
    assert looks == [0, 10, 20, 30]
    model.learn(5, stop(10), reset_num_timesteps=False)
    assert looks[4:] == [30, 35]
