import copy
import functools
import pickle

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import TQC, CrossQ
from stable_baselines3 import DDPG, SAC, TD3
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from stable_baselines3.sac.policies import SACPolicy
from torch import nn

import wnrl.sb3 as wn
from tests.sb3.tasks import SPACES, RandomTask, sample
from wnrl import NORMS, WNConv2d, WNLinear
from wnrl.errors import UsageError
from wnrl.nn import cache
from wnrl.sb3.common import use_fused

PAIRED = [name for name, norm in NORMS.items() if norm.paired]
ACTIONS = spaces.Box(-2.0, 2.0, (2,))
ALGORITHMS = {"SAC": SAC, "TD3": TD3, "TQC": TQC, "CrossQ": CrossQ}
WITH_TARGETS = ["SAC", "TD3", "TQC"]


def task(kind="Mlp"):
    return RandomTask(SPACES[kind], copy.deepcopy(ACTIONS))


def make(name, kind="Mlp", env=None, *, stock=False, others=None, **policy_kwargs):
    return ALGORITHMS[name](
        f"{kind}Policy" if stock else f"WN{kind}Policy",
        env or task(kind), learning_starts=8, batch_size=8, buffer_size=200,
        seed=0, device="cpu", policy_kwargs={"net_arch": [8, 8], **policy_kwargs}, **(others or {}),
    )  # fmt: skip


@functools.cache
def trained(name, norm):
    """A model that has learnt for a while, and its parameters before."""
    model = make(name, norm=norm)
    before = {key: p.detach().clone() for key, p in model.policy.named_parameters()}
    return model.learn(24), before


def batch(kind="Mlp", n=6):
    """Observations and actions, as tensors that the networks take."""
    actions = torch.linspace(-1, 1, 2 * n).reshape(n, 2)
    obs = sample(SPACES[kind], n)
    if isinstance(obs, dict):
        return {key: torch.tensor(value) for key, value in obs.items()}, actions
    return torch.tensor(obs), actions


def outputs(policy, kind="Mlp"):
    """What actor, critic and target make of one batch, in evaluation."""
    policy.set_training_mode(False)
    obs, actions = batch(kind)
    with torch.no_grad():
        found = [policy._predict(obs, deterministic=True)]
        for critic in (policy.critic, getattr(policy, "critic_target", policy.critic)):
            values = critic(obs, actions)
            found += [values] if isinstance(values, torch.Tensor) else values
    return found


def assert_same_outputs(one, other, kind="Mlp", **tolerance):
    for left, right in zip(outputs(one, kind), outputs(other, kind), strict=True):
        torch.testing.assert_close(left, right, **tolerance)


@pytest.mark.parametrize("norm", PAIRED)
@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("name", WITH_TARGETS)
def test_paired_norms_start_as_the_same_function_as_stock_at_the_same_seed(name, kind, norm):
    stock, ours = make(name, kind, stock=True), make(name, kind, norm=norm)
    assert_same_outputs(stock.policy, ours.policy, kind, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", PAIRED)
@pytest.mark.parametrize("name", WITH_TARGETS)
def test_plain_networks_train_exactly_as_stock_and_weight_norm_does_not(name, norm):
    stock = make(name, stock=True)
    for network in (stock.policy.actor, stock.policy.critic):
        use_fused(network.optimizer)  # as ours
    stock.learn(24)
    ours = make(name, norm=norm).learn(24)
    expected = torch.cat([p.flatten() for p in outputs(stock.policy)])
    actual = torch.cat([p.flatten() for p in outputs(ours.policy)])
    assert torch.equal(actual, expected) == (norm == "none")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_parameter_is_trained_by_one_optimizer_and_moves(name, norm):
    model, before = trained(name, norm)
    policy = model.policy
    for net in (policy.actor, policy.critic):
        held = [id(p) for group in net.optimizer.param_groups for p in group["params"]]
        assert sorted(held) == sorted(id(p) for p in net.parameters())
    still = [key for key, p in policy.named_parameters() if torch.equal(p, before[key])]
    assert still == []


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", WITH_TARGETS)
def test_targets_follow_in_weights_and_in_running_statistics(name, norm):
    policy = make(name, norm=norm, others={"tau": 1.0}).learn(24).policy
    pairs = [(policy.critic, policy.critic_target)]
    pairs += [(policy.actor, policy.actor_target)] if name == "TD3" else []
    for online, target in pairs:
        target_state = target.state_dict()
        for key, value in online.state_dict().items():
            if "num_batches_tracked" not in key:  # not used: the momentum is a number
                assert torch.equal(value, target_state[key]), key
        assert not any(part.training for part in target.modules())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_saved_agent_acts_the_same_and_resumes_with_the_same_optimizers(tmp_path, name, norm):
    model, _ = trained(name, norm)
    model.save(tmp_path / "model")
    again = ALGORITHMS[name].load(tmp_path / "model", env=task(), device="cpu")
    assert again.policy.norm == norm
    assert_same_outputs(model.policy, again.policy, rtol=0, atol=0)
    for net in ("actor", "critic"):
        ours, theirs = (getattr(m.policy, net).optimizer.state_dict() for m in (model, again))
        assert ours["param_groups"] == theirs["param_groups"]
        for key, moments in ours["state"].items():
            assert torch.equal(moments["exp_avg"], theirs["state"][key]["exp_avg"])
    again.learn(16, reset_num_timesteps=False)
    assert again.num_timesteps == 40


LOAD = """
import sys, wnrl.sb3, stable_baselines3, sb3_contrib
folder, *names = sys.argv[1:]
for name in names:
    algorithm = getattr(stable_baselines3, name, None) or getattr(sb3_contrib, name)
    model = algorithm.load(f"{folder}/{name}.zip", device="cpu")
    print(model.predict([0.1, 0.2, 0.3, 0.4, 0.5], deterministic=True)[0].tolist())
"""


def test_saved_agents_load_in_a_process_that_imports_wnrl_sb3_alone(fresh, tmp_path):
    expected = []
    for name in ALGORITHMS:
        model, _ = trained(name, "batch_renorm")
        model.save(tmp_path / name)
        action, _ = model.predict(np.linspace(0.1, 0.5, 5, dtype=np.float32), deterministic=True)
        expected.append(str(action.tolist()))
    assert fresh(LOAD, tmp_path, *ALGORITHMS).splitlines() == expected


@pytest.mark.parametrize("norm", ["weight", "batch"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_policy_save_and_load_keep_every_argument(tmp_path, name, norm):
    arguments = {
        "net_arch": {"pi": [7], "qf": [9, 5]},
        "activation_fn": nn.ELU,
        "n_critics": 3,
        "share_features_extractor": True,
        "optimizer_kwargs": {"eps": 1e-4},
        "norm": norm,
        "norm_kwargs": {"eps": 1e-3},
        "norm_heads": True,
    }
    arguments |= {"n_quantiles": 4} if name == "TQC" else {}
    policy = make(name, **arguments).learn(16).policy
    policy.save(tmp_path / "policy.pt")
    again = type(policy).load(tmp_path / "policy.pt", device="cpu")
    kept = again._get_constructor_parameters()
    assert {key: kept[key] for key in arguments} == arguments
    assert_same_outputs(policy, again, rtol=0, atol=0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_policy_survives_deepcopy_and_pickle_and_its_copies_learn(name, norm):
    policy = trained(name, norm)[0].policy
    obs, actions = batch()
    for twin in (copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
        assert_same_outputs(policy, twin, rtol=0, atol=0)
        twin.set_training_mode(True)
        before = running(policy.critic)
        values = twin.critic(obs, actions)
        sum(value.sum() for value in values).backward()
        assert all(torch.equal(before[key], value) for key, value in running(policy.critic).items())
        moved = [key for key, value in running(twin.critic).items() if (value != before[key]).any()]
        assert bool(moved) == bool(before)


def test_a_copy_of_a_compiled_policy_acts_with_its_own_weights():
    policy = make("SAC", norm="weight").policy
    for part in (policy, policy.critic):
        part.compile(backend="eager")
    twin = copy.deepcopy(policy)
    assert twin._compiled_call_impl is twin.critic._compiled_call_impl is None


@pytest.mark.parametrize("norm", ["weight", "projected", "batch", "spectral"])
@pytest.mark.parametrize("kind", ["Cnn", "MultiInput"])
@pytest.mark.parametrize("name", WITH_TARGETS)
def test_image_and_dict_observations_train_with_shared_and_own_extractors(name, kind, norm):
    shared = kind == "Cnn"
    model = make(name, kind, norm=norm, share_features_extractor=shared).learn(12)
    policy = model.policy
    assert (policy.critic.features_extractor is policy.actor.features_extractor) == shared
    if kind == "Cnn" and norm == "weight":
        assert isinstance(policy.critic_target.features_extractor.cnn[0], WNConv2d)
    assert all(torch.isfinite(value).all() for value in outputs(policy, kind))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["SAC", "TQC", "CrossQ"])
def test_state_dependent_noise_with_a_learned_temperature_trains(tmp_path, name, norm):
    others = {"use_sde": True, "sde_sample_freq": 4, "ent_coef": "auto_0.1"}
    model = make(name, norm=norm, others=others)
    log_std = model.policy.actor.log_std.detach().clone()
    model.learn(16)
    assert not torch.equal(model.policy.actor.log_std, log_std)
    assert type(model.policy.actor.mu[0]) is not WNLinear
    model.policy.save(tmp_path / "policy.pt")
    again = type(model.policy).load(tmp_path / "policy.pt", device="cpu")
    assert_same_outputs(model.policy, again, rtol=0, atol=0)


@pytest.mark.parametrize("norm", ["weight", "batch", "projected"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_normalised_observations_and_several_environments_train(name, norm):
    env = VecNormalize(DummyVecEnv([task, task]))
    others = {"train_freq": 4, "gradient_steps": -1}
    model = make(name, env=env, norm=norm, others=others).learn(40)
    assert model._n_updates > 0
    assert all(torch.isfinite(value).all() for value in outputs(model.policy))


@pytest.mark.parametrize("norm", ["weight", "projected"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_fused_optimizers_train_as_others_do(name, norm):
    models = [
        make(name, norm=norm, optimizer_kwargs={"fused": fused}).learn(16) for fused in (0, 1)
    ]
    assert_same_outputs(*(model.policy for model in models), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_rows_of_hidden_layers_stay_on_the_sphere_and_those_of_heads_do_not(name, fused):
    policy = make(name, norm="projected", optimizer_kwargs={"fused": fused}).learn(24).policy
    layers = [
        part
        for net in (policy.actor, policy.critic)
        for part in net.modules()
        if isinstance(part, nn.Linear)
    ]
    hidden = [layer for layer in layers if layer.out_features == 8]
    heads = [layer for layer in layers if layer.out_features != 8]
    assert len(hidden) == 6
    for layer in hidden:
        torch.testing.assert_close(layer.weight.norm(dim=1), torch.ones(8))
    assert heads
    for layer in heads:
        assert (layer.weight.norm(dim=1) - 1).abs().max() > 1e-3


HEADS = {
    "SAC": ["actor.mu", "actor.log_std", "critic.qf0.4", "critic.qf1.4"],
    "TD3": ["actor.mu.4", "critic.qf0.4", "critic.qf1.4"],
    "TQC": ["actor.mu", "actor.log_std", "critic.qf0.4", "critic.qf1.4"],
}


@pytest.mark.parametrize("norm_heads", [False, True])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", HEADS)
def test_heads_take_reparametrisations_alone_and_only_when_asked(name, norm, norm_heads):
    policy = make(name, norm=norm, norm_heads=norm_heads).policy
    possible = norm in ("weight", "weight_mean", "spectral")
    assert policy.plain_parts == (HEADS[name] if possible and not norm_heads else [])
    for head in HEADS[name]:
        assert (type(policy.get_submodule(head)) is nn.Linear) != (possible and norm_heads)


@pytest.mark.parametrize("norm", [n for n, choice in NORMS.items() if choice.normalizers])
def test_clip_behind_the_mean_of_state_dependent_noise_makes_no_hidden_layer(norm):
    policy = make("SAC", norm=norm, others={"use_sde": True}).policy
    assert type(policy.actor.mu[0]) is nn.Linear
    assert "actor.mu.0" not in policy.plain_parts or norm == "weight_mean"


def test_ddpg_takes_the_policies_of_td3():
    model = DDPG("WNMlpPolicy", task(), learning_starts=8, device="cpu").learn(12)
    assert isinstance(model.policy, wn.WNTD3MlpPolicy)
    assert model.policy.critic.n_critics == 1


class OwnPolicy(SACPolicy):
    def make_critic(self, features_extractor=None):
        critic = super().make_critic(features_extractor)
        critic.mine = True
        return critic


WNOwnPolicy = wn.with_norm(OwnPolicy, "batch")


def test_own_policies_take_a_norm_and_survive_pickle():
    model = SAC(
        WNOwnPolicy, task(), learning_starts=8, device="cpu",
        policy_kwargs={"net_arch": [8]},
    ).learn(12)  # fmt: skip
    twin = pickle.loads(pickle.dumps(model.policy))
    assert twin.norm == "batch"
    assert twin.critic_target.mine
    assert_same_outputs(model.policy, twin, rtol=0, atol=0)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_wrong_norms_and_options_are_told_at_construction(name):
    with pytest.raises(UsageError, match="norm must be one of"):
        make(name, norm="weigth")
    with pytest.raises(UsageError, match=r"norm_kwargs for 'layer' may hold eps; got 'momentum'"):
        make(name, norm="layer", norm_kwargs={"momentum": 0.1})


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_networks_without_hidden_layers_are_refused_where_the_norm_is_for_those(name, norm):
    if norm in ("none", "weight", "weight_mean", "spectral"):
        plain = make(name, norm=norm, net_arch=[]).learn(12).policy.plain_parts
        assert bool(plain) == (norm != "none")
    else:
        with pytest.raises(UsageError, match=rf"norm '{norm}' is for hidden layers.*net_arch=\[\]"):
            make(name, norm=norm, net_arch=[])


@pytest.mark.parametrize("norm", ["weight", "weight_mean", "projected"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_weight_decay_is_for_output_layers_alone_and_survives_saving(tmp_path, name, norm):
    model = make(name, norm=norm, optimizer_class=torch.optim.AdamW).learn(12)
    for net in (model.policy.actor, model.policy.critic):
        decayed, spared = net.optimizer.param_groups
        heads = [m.weight for m in net.modules() if type(m) is nn.Linear and m.out_features != 8]
        assert {id(p) for p in decayed["params"]} == {id(weight) for weight in heads}
        assert (decayed["weight_decay"], spared["weight_decay"]) == (0.01, 0.0)
        assert len(decayed["params"] + spared["params"]) == len(list(net.parameters()))
    model.save(tmp_path / "model")
    ALGORITHMS[name].load(tmp_path / "model", env=task()).learn(4, reset_num_timesteps=False)


@pytest.mark.parametrize("norm", ["none", "layer", "batch"])
def test_weight_decay_of_other_norms_is_that_of_the_optimizer(norm):
    policy = make("SAC", norm=norm, optimizer_class=torch.optim.AdamW).policy
    assert [group["weight_decay"] for group in policy.critic.optimizer.param_groups] == [0.01]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_prediction_after_a_write_through_data_is_right(name):
    policy, fresh = make(name).policy, make(name).policy
    obs = batch()[0].numpy()
    policy.predict(obs)
    for parameter in policy.actor.parameters():
        parameter.data.copy_(torch.randn_like(parameter))
    fresh.load_state_dict(policy.state_dict())
    np.testing.assert_array_equal(
        policy.predict(obs, deterministic=True)[0], fresh.predict(obs, deterministic=True)[0]
    )


@pytest.mark.parametrize("name", ALGORITHMS)
def test_no_update_writes_a_weight_that_is_kept(name):
    was = cache.check(True)
    try:
        make(name, norm="weight", others={"train_freq": 3}).learn(24)
    finally:
        cache.check(was)


def running(net):
    return {k: v.clone() for k, v in net.state_dict().items() if "running_" in k}
