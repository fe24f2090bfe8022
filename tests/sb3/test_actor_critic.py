import copy
import pickle
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor
from torch.distributions import Categorical, kl_divergence

from tests.sb3.tasks import VECTOR, RandomTask, outputs, sample
from tests.sb3.test_families import make
from wnrl import WNLinear
from wnrl.nn import scope
from wnrl.sb3 import actor_critic

ON_POLICY = ["PPO", "A2C", "TRPO", "MaskablePPO"]


class At(BaseCallback):
    """Calls a function with the model at each step, or at the end of each rollout."""

    def __init__(self, function, when="step"):
        super().__init__()
        self.function, self.when = function, when

    def _on_step(self):
        return self.when != "step" or self.function(self.model) is not False

    def _on_rollout_end(self):
        if self.when == "rollout":
            self.function(self.model)


def open_scopes(policy):
    return [m for m in policy.modules() if isinstance(m, WNLinear) and m._scope is not None]


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
    before = scope.check(True)
    yield
    scope.check(before)


@pytest.mark.parametrize("name", ON_POLICY)
def test_a_rollout_computes_each_weight_once(name, computed):
    model = make(name)
    before = scope.check(False)
    counts = []

    def count(_):
        counts.append(len(computed))
        computed.clear()

    computed.clear()
    model.learn(model.n_steps, At(count, "rollout"))
    scope.check(before)
    assert counts == [4]


@pytest.mark.parametrize("name", ON_POLICY)
def test_learning_is_what_it_is_without_kept_weights(name, monkeypatch):
    kept = make(name).learn(64).policy.state_dict()
    monkeypatch.setattr(actor_critic, "frozen", lambda policy: nullcontext())
    plain = make(name).learn(64).policy.state_dict()
    assert all(torch.equal(value, plain[key]) for key, value in kept.items())


@pytest.mark.parametrize("name", [*ON_POLICY, "DQN", "QRDQN"])
def test_no_weight_that_is_used_in_learning_is_outdated(name, checked):
    evaluation = EvalCallback(Monitor(RandomTask()), eval_freq=5, n_eval_episodes=1, verbose=0)
    assert make(name).learn(64, evaluation).num_timesteps >= 64


def test_weights_are_kept_in_rollouts_alone():
    model = make("PPO")
    inside = []
    model.learn(32, At(lambda model: inside.append(len(open_scopes(model.policy)))))
    assert inside == [4] * 32
    assert not open_scopes(model.policy)
    model.predict(sample(VECTOR))
    assert not open_scopes(model.policy)


def test_a_prediction_after_a_write_through_data_is_right_even_where_learning_was_stopped():
    model = make("PPO")
    model.learn(32, At(lambda model: model.num_timesteps < 5))
    policy, obs = model.policy, sample(VECTOR, 64)
    for layer in policy.modules():
        if isinstance(layer, WNLinear):
            layer.weight_v.data.copy_(torch.randn_like(layer.weight_v))
    fresh = make("PPO").policy
    fresh.load_state_dict(policy.state_dict())
    np.testing.assert_array_equal(
        policy.predict(obs, deterministic=True)[0], fresh.predict(obs, deterministic=True)[0]
    )


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
        assert not open_scopes(twin)
        for expected, actual in zip(outputs(reference, obs), outputs(twin, obs), strict=True):
            assert torch.equal(actual, expected)


@pytest.mark.parametrize("norm", ["weight", "weight_mean", "spectral", "batch"])
def test_the_step_of_trpo_moves_every_parameter_of_the_actor_and_no_other(norm):
    model = make("TRPO", norm=norm, norm_heads=True)
    found, compute = [], model._compute_actor_grad

    def spy(*args):
        found.append(compute(*args))
        return found[-1]

    model._compute_actor_grad = spy
    model.learn(16)
    names = {id(p): name for name, p in model.policy.named_parameters()}
    actor = {name for name in names.values() if name.startswith(("mlp_extractor.policy", "action"))}
    assert {names[id(p)] for p in found[0][0]} == actor
    assert norm != "weight" or any(name.endswith("_g") for name in actor)


def test_rows_are_on_the_sphere_after_an_update_of_trpo():
    policy = make("TRPO", norm="projected").learn(16).policy
    for net in (policy.mlp_extractor.policy_net, policy.mlp_extractor.value_net):
        for layer in net[::2]:
            torch.testing.assert_close(layer.weight.norm(dim=1), torch.ones(8))


@pytest.mark.parametrize("norm", ["none", "weight"])
def test_hessian_vector_products_of_trpo_are_right(norm):
    model = make("TRPO", norm=norm, norm_heads=True)
    policy = model.policy.double()
    obs = torch.as_tensor(sample(VECTOR, 16)).double()
    parameters = [p for name, p in policy.named_parameters() if "value" not in name]
    old = Categorical(logits=torch.randn(16, 2).double())

    def gradient(create_graph=False):
        logits = policy.action_net(policy.mlp_extractor.forward_actor(obs))
        kl = kl_divergence(Categorical(logits=logits), old).mean()
        grads = torch.autograd.grad(kl, parameters, create_graph=create_graph)
        return torch.cat([grad.flatten() for grad in grads])

    vector = torch.randn_like(gradient())
    model.cg_damping = 0.0
    product = model.hessian_vector_product(parameters, gradient(create_graph=True), vector)
    start = torch.nn.utils.parameters_to_vector(parameters).detach()
    ahead, behind = (
        (torch.nn.utils.vector_to_parameters(start + step * vector, parameters), gradient())[1]
        for step in (1e-7, -1e-7)
    )
    torch.testing.assert_close(product, (ahead - behind) / 2e-7, rtol=1e-5, atol=1e-6)


def test_trpo_finds_steps_within_its_trust_region_under_weight_norm():
    model = make("TRPO")
    model.set_logger(Logger(None, []))
    model.learn(64, log_interval=100)
    values = model.logger.name_to_value
    assert values["train/is_line_search_success"] == 1.0
    assert 0 < values["train/kl_divergence_loss"] < model.target_kl


class OnlyTheFirst(RandomTask):
    def action_masks(self):
        return np.array([True, False])

    def step(self, action):
        assert action == 0
        return super().step(action)


@pytest.mark.parametrize("norm", ["weight", "layer", "batch"])
def test_masked_actions_are_never_taken(norm):
    model = MaskablePPO(
        "WNMlpPolicy", OnlyTheFirst(), n_steps=16, batch_size=16, device="cpu",
        policy_kwargs={"norm": norm, "net_arch": [8]},
    ).learn(32)  # fmt: skip
    masks = np.tile([False, True], (9, 1))
    actions, _ = model.predict(sample(VECTOR, 9), action_masks=masks)
    assert list(actions) == [1] * 9
