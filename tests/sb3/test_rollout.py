"""Weights are computed once a rollout, and what changes them is seen."""

import contextlib
import copy
import pickle
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.monitor import Monitor

import wnrl
from tests.sb3.tasks import VECTOR, RandomTask, outputs, sample
from tests.sb3.test_families import OFF_POLICY, make
from wnrl import WNLinear
from wnrl.nn import cache
from wnrl.sb3 import actor_critic

ON_POLICY = ["PPO", "A2C", "TRPO", "MaskablePPO"]


class At(BaseCallback):
    """Calls a function with the model at each step, or at the start or end of each rollout."""

    def __init__(self, function, when="step"):
        super().__init__()
        self.function, self.when = function, when

    def _on_step(self):
        return self.when != "step" or self.function(self.model) is not False

    def _on_rollout_start(self):
        if self.when == "start":
            self.function(self.model)

    def _on_rollout_end(self):
        if self.when == "end":
            self.function(self.model)


def kept_layers(policy):
    """The layers whose weights are kept; looked for without asking the policy, which ends it."""
    found = [m for part in policy.children() for m in part.modules()]
    return [m for m in found if isinstance(m, WNLinear) and m._cache is not None]


def greedy(name):
    """An agent that draws no random actions, but for the first ones."""
    return make(name, others={"exploration_initial_eps": 0, "exploration_final_eps": 0}
                if name in OFF_POLICY else None)  # fmt: skip


@pytest.fixture
def computed(monkeypatch):
    """Grows by one whenever a weight is computed."""
    calls, compute = [], WNLinear._compute

    def spy(layer):
        calls.append(layer)
        return compute(layer)

    monkeypatch.setattr(WNLinear, "_compute", spy)
    return calls


@pytest.fixture
def checked():
    """The check mode, in which the use of an outdated weight is an error."""
    before = cache.check(True)
    yield
    cache.check(before)


@pytest.mark.parametrize("name", ON_POLICY)
def test_a_rollout_computes_each_weight_once(name, computed):
    model = make(name)
    before = cache.check(False)
    counts = []
    model.learn(16, [
        At(lambda _: computed.clear(), "start"), At(lambda _: counts.append(len(computed)), "end"),
    ])  # fmt: skip
    cache.check(before)
    assert counts[-2:] == [4] * len(counts[-2:])


@pytest.mark.parametrize("name", ON_POLICY)
def test_learning_is_what_it_is_without_kept_weights(name, monkeypatch):
    kept = make(name).learn(64).policy.state_dict()
    monkeypatch.setattr(actor_critic, "frozen", lambda policy: nullcontext())
    plain = make(name).learn(64).policy.state_dict()
    assert all(torch.equal(value, plain[key]) for key, value in kept.items())


@pytest.mark.parametrize("name", [*ON_POLICY, *OFF_POLICY])
def test_no_weight_that_is_used_in_learning_is_outdated(name, checked):
    evaluation = EvalCallback(Monitor(RandomTask()), eval_freq=5, n_eval_episodes=1, verbose=0)
    assert make(name).learn(64, evaluation).num_timesteps >= 64


@pytest.mark.parametrize(("name", "layers"), [("PPO", 4), ("DQN", 0)])
def test_weights_are_kept_in_rollouts_alone(name, layers):
    model = greedy(name)
    inside = []

    def look(model):
        inside.append(len(kept_layers(model.policy)))

    model.learn(32, At(look))
    assert inside[-20:] == [layers] * 20
    assert not kept_layers(model.policy)
    model.predict(sample(VECTOR))
    assert not kept_layers(model.policy)


class BrokenError(Exception):
    pass


def stop(model):
    return model.num_timesteps < 15


def fail(model):
    if model.num_timesteps == 15:
        raise BrokenError


def write(policy, traceless):
    """Changes all parameters, through ``.data`` or in a way that leaves a trace."""
    with torch.no_grad():
        for parameter in policy.parameters():
            (parameter.data if traceless else parameter).copy_(torch.randn_like(parameter))


@pytest.mark.parametrize("end", [stop, fail])
@pytest.mark.parametrize("name", ["PPO", "DQN"])
def test_what_a_user_writes_is_seen_where_a_callback_has_ended_training(name, end):
    model = greedy(name)
    with contextlib.suppress(BrokenError):
        model.learn(64, At(end))
    assert model.num_timesteps == 15
    policy, obs, fresh = model.policy, sample(VECTOR, 64), greedy(name).policy
    for traceless in (False, True, True):
        write(policy, traceless)
        fresh.load_state_dict(policy.state_dict())
        if traceless and name == "PPO":
            wnrl.invalidate(policy)
        with torch.no_grad():
            expected, actual = (
                each.predict_values(torch.as_tensor(obs))
                if name == "PPO"
                else each.q_net(torch.as_tensor(obs))
                for each in (fresh, policy)
            )
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("end", [stop, fail])
@pytest.mark.parametrize("name", ["PPO", "DQN"])
def test_predictions_see_every_write_where_a_callback_has_ended_training(name, end):
    model = greedy(name)
    with contextlib.suppress(BrokenError):
        model.learn(64, At(end))
    policy, obs, fresh = model.policy, sample(VECTOR, 64), greedy(name).policy
    for _ in range(2):
        write(policy, traceless=True)
        fresh.load_state_dict(policy.state_dict())
        actions, expected = (each.predict(obs, deterministic=True)[0] for each in (policy, fresh))
        np.testing.assert_array_equal(actions, expected)


@pytest.mark.parametrize("name", ON_POLICY)
def test_asking_for_parameters_in_a_rollout_changes_nothing(name, computed):
    model, counts = make(name), []
    before = cache.check(False)

    def ask(model):
        if model.num_timesteps % 16 not in (0, 1, 15):
            computed.clear()
            list(model.policy.parameters())
            list(model.policy.modules())
            model.policy.state_dict()
        counts.append(len(computed))

    model.learn(32, At(ask))
    cache.check(before)
    assert counts[-10] == 0


@pytest.mark.parametrize("way", ["eval", "predict"])
def test_a_users_own_loop_sees_writes_through_data(way):
    policy, fresh = make("PPO").policy, make("PPO").policy
    obs = torch.as_tensor(sample(VECTOR))
    policy.eval() if way == "eval" else policy.predict(obs.numpy())
    with torch.no_grad():
        policy(obs)
        for parameter in policy.parameters():
            parameter.data.copy_(torch.randn_like(parameter))
        fresh.load_state_dict(policy.state_dict())
        _, actual, _ = policy(obs)
        _, expected, _ = fresh(obs)
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("norm", ["weight", "projected", "layer"])
def test_a_policy_is_copied_and_saved_in_the_middle_of_a_rollout(tmp_path, norm):
    copies = []

    def copy_policy(model):
        if model.num_timesteps == 20:
            model.save(tmp_path / "model")
            twins = copy.deepcopy(model.policy), pickle.loads(pickle.dumps(model.policy))
            copies.extend((*twins, PPO.load(tmp_path / "model", device="cpu").policy))
            copies.append(copy.deepcopy(model.policy.state_dict()))

    make("PPO", norm=norm).learn(32, At(copy_policy))
    *twins, state = copies
    reference = make("PPO", norm=norm).policy
    reference.load_state_dict(state)
    obs = sample(VECTOR)
    for twin in twins:
        assert not kept_layers(twin)
        for expected, actual in zip(outputs(reference, obs), outputs(twin, obs), strict=True):
            assert torch.equal(actual, expected)
