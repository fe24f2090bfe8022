import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from sb3_contrib import CrossQ
from stable_baselines3 import SAC
from torch import nn

from wnrl import NORMS
from wnrl.errors import UsageError
from wnrl.sb3.parts import batch_norms

BATCH_NORMS = ["batch", "batch_renorm", "mean", "weight_mean", "projected"]


def make(tau=0.1, *, norm="batch_renorm", others=None, **policy_kwargs):
    """A model that has data to learn from and has not learnt."""
    model = CrossQ(
        "WNMlpPolicy", "Pendulum-v1", learning_starts=40, batch_size=8, buffer_size=100, seed=0,
        device="cpu", **(others or {}),
        policy_kwargs={"net_arch": [6, 6], "norm": norm, "tau": tau, "batch_norm_momentum": 0.1,
                       **({"batch_norm": False} if norm in ("none", "weight", "spectral") else {}),
                       **policy_kwargs},
    )  # fmt: skip
    return model.learn(40)


def update(model, steps):
    """Updates from random generators of their own."""
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 (SB3 draws from the global generator)
    model.train(gradient_steps=steps, batch_size=8)
    return model


def joint_batch(n=8):
    generator = torch.Generator().manual_seed(0)
    draw = torch.rand(2 * n, 4, generator=generator) * 2 - 1
    return draw[:, :3], draw[:, 3:]


def states(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]), key


def move(module):
    """Gives the parameters other values."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))


def test_without_tau_there_is_no_target():
    policy = make(None).policy
    assert policy.tau is None
    assert not hasattr(policy, "critic_target")
    assert not any("target" in key for key in policy.state_dict())


@pytest.mark.parametrize("norm_heads", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_a_target_is_like_its_critic_and_adds_no_plain_parts(norm, norm_heads):
    plain, policy = (make(tau, norm=norm, norm_heads=norm_heads).policy for tau in (None, 0.1))
    assert policy.plain_parts == plain.plain_parts
    assert repr(policy.critic_target) == repr(policy.critic)


@pytest.mark.parametrize("warmup", [100, 1])
@pytest.mark.parametrize("norm", [norm for norm in NORMS if norm != "spectral"])
def test_a_target_that_is_always_a_copy_is_crossq_as_it_is(norm, warmup):
    models = [update(make(tau, norm=norm, renorm_warmup_steps=warmup), 9) for tau in (None, 1.0)]
    without, copied = (states(model.policy) for model in models)
    for key, value in without.items():
        # What projection divides by is rounded, and Adam makes much of it.
        rounding = {"rtol": 1e-6, "atol": 1e-8} if norm == "projected" else {"rtol": 0, "atol": 0}
        near = rounding if norm in BATCH_NORMS else {"rtol": 1e-4, "atol": 1e-6}
        torch.testing.assert_close(copied[key], value, **near)
    critic, target = (states(getattr(models[1].policy, n)) for n in ("critic", "critic_target"))
    running = {key for key in critic if "running_" in key}
    assert all(torch.equal(critic[key], target[key]) for key in critic.keys() - running)


@pytest.mark.parametrize("norm", NORMS)
def test_in_the_joint_batch_a_target_values_what_comes_next_and_the_critic_what_it_learns(norm):
    policy = make(norm=norm, renorm_warmup_steps=0).policy
    plain = make(None, norm=norm, renorm_warmup_steps=0).policy
    move(policy.critic_target)
    obs, actions = joint_batch()
    expected = []
    for network in (policy.critic, policy.critic_target):
        plain.critic.load_state_dict(network.state_dict())
        plain.set_training_mode(True)
        expected.append(plain.critic(obs, actions))
    policy.set_training_mode(True)
    for q, own, next_ones in zip(policy.critic(obs, actions), *expected, strict=True):
        torch.testing.assert_close(q[:8], own[:8], rtol=0, atol=0)
        torch.testing.assert_close(q[8:], next_ones[8:])
        assert not torch.allclose(q[8:], own[8:])


@pytest.mark.parametrize("norm", ["batch_renorm", "layer"])
def test_no_gradient_comes_from_what_the_target_values(norm):
    policy = make(norm=norm).policy
    policy.set_training_mode(True)
    policy.critic(*joint_batch())[0][8:].sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in policy.critic.parameters())
    assert all(p.grad is None for p in policy.critic_target.parameters())


def test_actors_and_lookers_on_get_the_values_of_the_critic():
    policy = update(make(), 3).policy
    before = states(policy.critic_target)
    move(policy.critic_target)
    obs, actions = joint_batch()
    with torch.no_grad():
        policy.set_training_mode(False)
        expected = torch.cat(policy.critic(obs, actions), dim=1)
        policy.set_training_mode(True)
        assert torch.equal(torch.cat(policy.critic(obs, actions), dim=1), expected)
    found = torch.cat(policy.critic(obs, actions.clone().requires_grad_()), dim=1)
    assert torch.equal(found, expected)
    running = {key: value for key, value in before.items() if "running_" in key}
    after = states(policy.critic_target)
    assert running
    assert all(torch.equal(after[key], value) for key, value in running.items())


@pytest.mark.parametrize("norm", NORMS)
def test_the_target_follows_once_a_gradient_step_what_the_step_and_projection_made(norm):
    model = make(norm=norm)
    critic, target = model.policy.critic, model.policy.critic_target
    expected = [p.detach().clone() for p in target.parameters()]

    def average(*_):
        for mean, parameter in zip(expected, critic.parameters(), strict=True):
            mean.mul_(0.9).add_(parameter.detach(), alpha=0.1)

    critic.optimizer.register_step_post_hook(average)
    update(model, 5)
    for parameter, mean in zip(target.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter, mean, rtol=1e-6, atol=1e-7)
    assert not torch.equal(next(target.parameters()), next(critic.parameters()))


def test_averaged_rows_are_not_put_back_on_the_sphere():
    policy = update(make(norm="projected", others={"learning_rate": 0.1}), 9).policy
    lengths = [net.qf0[1].weight.norm(dim=1) for net in (policy.critic, policy.critic_target)]
    torch.testing.assert_close(lengths[0], torch.ones(6))
    assert (lengths[1] < 0.999).any()


@pytest.mark.parametrize("norm", BATCH_NORMS)
def test_a_target_tracks_the_statistics_of_its_own_activations_once_a_joint_batch(norm):
    model = make(norm=norm, others={"learning_rate": 1e-30})
    policy = model.policy
    move(policy.critic_target)
    moved, seen = states(policy.critic_target), []
    norms = batch_norms(policy.critic_target.qf0)
    norms[1].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    start = norms[1].running_mean.clone()
    policy.critic.tau = 0.0  # the target stays where it is
    update(model, 6)
    assert [len(x) for x in seen] == [16] * 6
    for x in seen:
        start = 0.9 * start + 0.1 * x.mean(0)
    torch.testing.assert_close(norms[1].running_mean, start)
    assert not any(part.training for part in policy.critic_target.modules())
    assert all(
        torch.equal(moved[key], value) for key, value in policy.critic_target.named_parameters()
    )


@pytest.mark.parametrize("norm", NORMS)
def test_a_target_is_saved_loaded_and_in_no_optimizer(tmp_path, norm):
    model = update(make(norm=norm), 6)
    held = {id(p) for n in ("actor", "critic") for g in getattr(model, n).optimizer.param_groups
            for p in g["params"]}  # fmt: skip
    assert held.isdisjoint(id(p) for p in model.policy.critic_target.parameters())
    model.save(tmp_path / "model")
    model.policy.save(tmp_path / "policy")
    again = CrossQ.load(tmp_path / "model", env=model.get_env(), device="cpu")
    for policy in (again.policy, type(model.policy).load(tmp_path / "policy", device="cpu")):
        assert policy.tau == 0.1
        assert_equal(states(model.policy), states(policy))
    again.replay_buffer = model.replay_buffer
    again.set_logger(model.logger)
    assert_equal(states(update(model, 4).policy), states(update(again, 4).policy))


LOAD = """
import sys, torch, wnrl.sb3
from sb3_contrib import CrossQ
policy = CrossQ.load(sys.argv[1], device="cpu").policy
print(policy.tau, sum(float(p.detach().double().sum()) for p in policy.critic_target.parameters()))
"""


def test_a_target_is_there_in_a_process_that_imports_wnrl_sb3_alone(fresh, tmp_path):
    model = update(make(), 6)
    model.save(tmp_path / "model")
    total = sum(float(p.detach().double().sum()) for p in model.policy.critic_target.parameters())
    assert fresh(LOAD, tmp_path / "model.zip").split() == ["0.1", str(total)]


@pytest.mark.parametrize("norm", NORMS)
def test_copies_have_a_target_of_their_own_that_follows_their_own_critic(norm):
    policy = update(make(norm=norm), 3).policy
    for twin in (copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
        before = states(policy)
        twin.set_training_mode(True)
        start = states(twin.critic_target)
        sum(q[:8].sum() for q in twin.critic(*joint_batch())).backward()
        twin.critic.optimizer.step()
        critic, target = states(twin.critic), states(twin.critic_target)
        for key, _ in twin.critic.named_parameters():
            expected = 0.9 * start[key] + 0.1 * critic[key]
            torch.testing.assert_close(target[key], expected)
            assert not torch.equal(target[key], start[key])
        assert_equal(before, states(policy))


@pytest.mark.parametrize("norm", ["none", "batch_renorm", "weight", "projected"])
def test_a_target_is_loaded_again_after_a_data_dependent_initialisation(norm):
    model = make(norm=norm, data_init=8, others={"learning_rate": 1e-30})
    before = states(model.policy.critic)
    policy = update(model, 1).policy
    critic, target = states(policy.critic), states(policy.critic_target)
    assert any((critic[key] != before[key]).any() for key, _ in policy.critic.named_parameters())
    for key, _ in policy.critic.named_parameters():
        torch.testing.assert_close(target[key], critic[key])


@pytest.mark.parametrize("norm", NORMS)
def test_a_target_goes_with_state_dependent_noise(norm):
    model = make(norm=norm, others={"use_sde": True, "sde_sample_freq": 4})
    before = states(model.policy.critic_target)
    after = states(update(model, 6).policy.critic_target)
    assert all(value.isfinite().all() for value in after.values())
    assert any((after[key] != before[key]).any() for key in after)


class Extractor(nn.Module):
    def __init__(self, observation_space):
        super().__init__()
        self.features_dim = 4
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.BatchNorm1d(4))

    def forward(self, obs):
        return self.net(obs)


def test_the_extractor_of_a_target_has_the_statistics_of_the_one_that_the_actor_trains():
    policy = update(
        make(features_extractor_class=Extractor, share_features_extractor=True), 7
    ).policy
    assert policy.critic_target.features_extractor is not policy.critic.features_extractor
    ours, theirs = (
        batch_norms(net.features_extractor)[0] for net in (policy.critic, policy.critic_target)
    )
    assert ours.running_mean.any()
    # The actor's last update may be newer than the critic's last step.
    policy.critic.optimizer.step()
    assert torch.equal(ours.running_mean, theirs.running_mean)
    assert torch.equal(ours.running_var, theirs.running_var)


def test_a_target_is_another_remedy_than_a_normalizer():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CrossQ("WNMlpPolicy", "Pendulum-v1", policy_kwargs={"norm": "weight", "tau": 0.005})


@pytest.mark.parametrize("tau", [0, -0.1, 1.5, "0.005", True, float("nan")])
def test_a_tau_that_moves_no_target_is_refused(tau):
    with pytest.raises(UsageError, match=r"tau must be .*number.* got"):
        make(tau)


def test_algorithms_with_targets_of_their_own_have_no_such_argument():
    with pytest.raises(UsageError, match=r"WNSACMlpPolicy .*'tau'"):
        SAC("WNMlpPolicy", "Pendulum-v1", policy_kwargs={"tau": 0.005})
