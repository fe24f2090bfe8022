import copy
import pickle

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.crossq.policies import CrossQPolicy
from sb3_contrib.qrdqn.policies import QRDQNPolicy
from sb3_contrib.tqc.policies import TQCPolicy
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy

import wnrl.sb3 as wn
from tests.sb3.tasks import DICT, IMAGE, VECTOR, RandomTask, outputs, sample
from wnrl import NORMS, WNLSTM, WNLinear, convert, state_dict_as
from wnrl.errors import StateError, UsageError
from wnrl.sb3.common import check_optimized
from wnrl.sb3.policies import MIXINS

PAIRED = [name for name, norm in NORMS.items() if norm.paired]
RECURRENT = {
    "WNMlpLstmPolicy": ("MlpLstmPolicy", VECTOR),
    "WNCnnLstmPolicy": ("CnnLstmPolicy", IMAGE),
    "WNMultiInputLstmPolicy": ("MultiInputLstmPolicy", DICT),
}


def make(algorithm, policy, env="CartPole-v1", **policy_kwargs):
    return algorithm(
        policy, env, n_steps=16, batch_size=16, n_epochs=2, seed=0, device="cpu",
        policy_kwargs=policy_kwargs,
    )  # fmt: skip


def make_recurrent(alias, space, **policy_kwargs):
    return make(RecurrentPPO, alias, RandomTask(space), lstm_hidden_size=8, **policy_kwargs)


def act(model, obs):
    """Values and log-probabilities of action 0 of a recurrent policy, from zero states."""
    policy = model.policy
    policy.set_training_mode(False)
    layers, _, hidden = policy.lstm_hidden_state_shape
    zeros = (torch.zeros(layers, 4, hidden), torch.zeros(layers, 4, hidden))
    states = type(model._last_lstm_states)(zeros, zeros)
    obs_tensor, _ = policy.obs_to_tensor(obs)
    with torch.no_grad():
        return policy.evaluate_actions(
            obs_tensor, torch.zeros(4, dtype=torch.long), states, torch.zeros(4)
        )


@pytest.mark.parametrize("norm", NORMS)
def test_action_head_keeps_its_gain_of_one_hundredth(norm):
    policy = make(PPO, "WNMlpPolicy", norm=norm).policy
    torch.testing.assert_close(policy.action_net.weight.norm(dim=1), torch.full((2,), 0.01))


def test_hidden_layers_keep_their_orthogonal_rows():
    hidden = make(PPO, "WNMlpPolicy").policy.mlp_extractor.policy_net[2]
    torch.testing.assert_close(hidden.weight_g, torch.full((64, 1), 2**0.5))
    torch.testing.assert_close(hidden.weight @ hidden.weight.T, 2 * torch.eye(64))


@pytest.mark.parametrize(("norm_heads", "head"), [(False, torch.nn.Linear), (True, WNLinear)])
def test_output_heads_take_the_norm_only_when_asked(norm_heads, head):
    policy = make(PPO, "WNMlpPolicy", RandomTask(), norm_heads=norm_heads).policy
    stock = make(PPO, "MlpPolicy", RandomTask()).policy
    assert type(policy.action_net) is type(policy.value_net) is head
    assert type(policy.mlp_extractor.value_net[2]) is WNLinear
    obs = sample(VECTOR)
    for expected, actual in zip(outputs(stock, obs), outputs(policy, obs), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm_heads", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_heads_are_listed_as_plain_where_the_norm_could_have_taken_them(norm, norm_heads):
    policy = make(PPO, "WNMlpPolicy", norm=norm, norm_heads=norm_heads).policy
    listed = norm in ("weight", "weight_mean", "spectral") and not norm_heads
    assert policy.plain_parts == (["action_net", "value_net"] if listed else [])


@pytest.mark.parametrize("norm", PAIRED)
@pytest.mark.parametrize("alias", RECURRENT)
def test_recurrent_policies_start_as_the_same_function_as_stock_at_the_same_seed(alias, norm):
    stock_alias, space = RECURRENT[alias]
    stock = make_recurrent(stock_alias, space)
    ours = make_recurrent(alias, space, norm=norm)
    obs = sample(space)
    for expected, actual in zip(act(stock, obs), act(ours, obs), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_weight_is_the_norm_of_recurrent_policies_unless_said_otherwise():
    policy = make_recurrent("WNMlpLstmPolicy", VECTOR).policy
    assert policy.norm == "weight"
    assert type(policy.lstm_actor) is WNLSTM


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("alias", RECURRENT)
def test_every_parameter_of_recurrent_policies_is_optimized_and_moves(alias, norm):
    stock_alias, space = RECURRENT[alias]
    stock = make_recurrent(stock_alias, space).policy
    model = make_recurrent(alias, space, norm=norm)
    policy = model.policy
    count = sum("bias" in name for name, _ in policy.named_parameters())
    assert count >= sum("bias" in name for name, _ in stock.named_parameters())
    held = [p for group in policy.optimizer.param_groups for p in group["params"]]
    assert len(held) == len({id(p) for p in held}) == len(list(policy.parameters()))
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    model.learn(32)
    still = [name for name, p in policy.named_parameters() if torch.equal(p, before[name])]
    assert still == []


@pytest.mark.parametrize("norm", NORMS)
def test_saved_recurrent_agent_acts_the_same_and_resumes_with_the_same_optimizer(tmp_path, norm):
    model = make_recurrent("WNMlpLstmPolicy", VECTOR, norm=norm).learn(32)
    model.save(tmp_path / "model")
    again = RecurrentPPO.load(tmp_path / "model", env=RandomTask(), device="cpu")
    assert again.policy.norm == norm
    obs = sample(VECTOR)
    for expected, actual in zip(act(model, obs), act(again, obs), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    ours, theirs = model.policy.optimizer.state_dict(), again.policy.optimizer.state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    for key, moments in ours["state"].items():
        assert torch.equal(moments["exp_avg"], theirs["state"][key]["exp_avg"])
    again.learn(32, reset_num_timesteps=False)
    assert again.num_timesteps == 64


@pytest.mark.parametrize("norm", ["weight", "layer"])
def test_saved_recurrent_policies_keep_every_argument(tmp_path, norm):
    arguments = {
        "net_arch": {"pi": [7], "vf": [9, 5]},
        "activation_fn": torch.nn.ELU,
        "share_features_extractor": False,
        "ortho_init": False,
        "norm": norm,
        "norm_kwargs": {} if norm == "weight" else {"eps": 1e-3},
        "lstm_hidden_size": 6,
        "n_lstm_layers": 2,
        "norm_heads": True,
        "enable_critic_lstm": False,
        "lstm_kwargs": {"bias": False},
    }
    model = make(RecurrentPPO, "WNMlpLstmPolicy", RandomTask(), **arguments)
    model.policy.save(tmp_path / "policy.pt")
    again = wn.WNMlpLstmPolicy.load(tmp_path / "policy.pt", device="cpu")
    kept = again._get_constructor_parameters()
    assert {key: kept[key] for key in arguments} == arguments
    obs = sample(VECTOR)
    expected, _ = model.policy.predict(obs, deterministic=True)
    np.testing.assert_array_equal(again.predict(obs, deterministic=True)[0], expected)


def test_shared_lstm_and_continuous_actions_with_state_dependent_noise_train(tmp_path):
    env = RandomTask(VECTOR, spaces.Box(-1.0, 1.0, (3,)))
    model = RecurrentPPO(
        "WNMlpLstmPolicy", env, n_steps=16, batch_size=16, use_sde=True, sde_sample_freq=4, seed=0,
        policy_kwargs={"shared_lstm": True, "enable_critic_lstm": False, "lstm_hidden_size": 8},
    ).learn(32)  # fmt: skip
    model.policy.save(tmp_path / "policy.pt")
    again = wn.WNMlpLstmPolicy.load(tmp_path / "policy.pt", device="cpu")
    obs = sample(VECTOR)
    np.testing.assert_array_equal(
        again.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0]
    )


def test_lstm_under_batch_norm_is_plain_and_listed():
    policy = make(
        RecurrentPPO, "WNMlpLstmPolicy", "CartPole-v1", norm="batch", lstm_hidden_size=8
    ).policy
    assert policy.plain_parts == ["lstm_actor", "lstm_critic"]
    assert type(policy.lstm_actor) is torch.nn.LSTM


def test_unknown_norm_and_unknown_option_are_refused():
    with pytest.raises(UsageError, match="did you mean 'weight'"):
        make(PPO, "WNMlpPolicy", "CartPole-v1", norm="wieght")
    with pytest.raises(UsageError, match="momentun"):
        make(PPO, "WNMlpPolicy", "CartPole-v1", norm="batch", norm_kwargs={"momentun": 0.5})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm_kwargs": "eps"}, "norm_kwargs must be a dict or None, got 'eps'"),
        ({"norm_kwargs": [1]}, r"norm_kwargs must be a dict or None, got \[1\]"),
        ({"norm_heads": "False"}, "norm_heads must be True or False, got 'False'"),
        ({"nrom": "weight"}, "WNMlpPolicy got an unexpected keyword argument 'nrom'"),
    ],
)
def test_arguments_of_another_type_or_name_are_refused(arguments, message):
    with pytest.raises(UsageError, match=f"^{message}$"):
        make(PPO, "WNMlpPolicy", **arguments)


OTHERS = {
    "another norm": {"norm": "layer"},
    "the plain norm": {"norm": "none"},
    "other sizes": {"net_arch": [8]},
    "data_init": {"data_init": 16},
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_the_state_of_another_policy_is_refused_in_one_line(tmp_path, other):
    path = tmp_path / "other.zip"
    make(PPO, "WNMlpPolicy", **other).save(path)
    model = make(PPO, "WNMlpPolicy")
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    message = r"^the state is of another policy than WNMlpPolicy with norm 'weight': [^\n]*$"
    with pytest.raises(UsageError, match=message):
        model.set_parameters(path)
    assert all(
        torch.equal(value, before[name]) for name, value in model.policy.state_dict().items()
    )


def test_the_zip_of_another_algorithm_is_refused_by_the_name_of_its_policy(tmp_path):
    path = tmp_path / "dqn.zip"
    DQN("WNMlpPolicy", "CartPole-v1", buffer_size=10, device="cpu").save(path)
    with pytest.raises(UsageError, match=r"^WNDQNMlpPolicy got an unexpected keyword argument"):
        PPO.load(path, device="cpu")


def test_a_state_that_fits_in_part_is_loaded_where_that_was_asked_for():
    policy, other = (make(PPO, "WNMlpPolicy").policy for _ in range(2))
    part = {"action_net.bias": torch.ones(2)}
    policy.load_state_dict(part, strict=False)
    assert torch.equal(policy.action_net.bias, torch.ones(2))
    with pytest.raises(UsageError, match="Missing key"):
        other.load_state_dict(part)


def test_norm_options_reach_the_normalizer():
    policy = make(
        PPO, "WNMlpPolicy", "CartPole-v1", norm="batch", norm_kwargs={"momentum": 0.25}
    ).policy
    found = [m.momentum for m in policy.modules() if isinstance(m, torch.nn.BatchNorm1d)]
    assert found == [0.25] * 4


class OwnPolicy(ActorCriticPolicy):
    def __init__(self, *args, width=16, **kwargs):
        super().__init__(*args, net_arch=[width], **kwargs)


class TwoGroups(ActorCriticPolicy):
    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        head = list(self.action_net.parameters())
        rest = [p for p in self.parameters() if not any(p is h for h in head)]
        self.optimizer = torch.optim.Adam([{"params": rest}, {"params": head, "lr": 1e-4}])


WNOwnPolicy = wn.with_norm(OwnPolicy)


def test_with_norm_gives_a_users_policy_a_norm_and_keeps_its_arguments(tmp_path):
    policy = make(PPO, wn.with_norm(OwnPolicy, "layer"), width=5).policy
    assert policy.norm == "layer"
    assert sum(isinstance(m, torch.nn.LayerNorm) for m in policy.modules()) == 2
    assert policy.value_net.in_features == 5
    assert policy._get_constructor_parameters()["width"] == 5


def test_a_class_made_by_with_norm_survives_pickle_and_sb3s_saving(tmp_path):
    model = make(PPO, WNOwnPolicy, RandomTask(), width=5).learn(16)
    model.save(tmp_path / "model")
    model.policy.save(tmp_path / "policy.pt")
    obs = sample(VECTOR)
    expected = outputs(model.policy, obs)
    for again in (
        PPO.load(tmp_path / "model", device="cpu").policy,
        WNOwnPolicy.load(tmp_path / "policy.pt", device="cpu"),
        pickle.loads(pickle.dumps(model.policy)),
    ):
        for left, right in zip(expected, outputs(again, obs), strict=True):
            assert torch.equal(left, right)


def test_with_norm_runs_a_recurrent_policy_over_whole_sequences():
    policy_class = wn.with_norm(RecurrentActorCriticPolicy)
    assert policy_class._process_sequence is wn.WNMlpLstmPolicy._process_sequence


def test_with_norm_of_ours_changes_the_default_alone():
    policy_class = wn.with_norm(wn.WNMlpPolicy, "none")
    assert make(PPO, policy_class).policy.norm == "none"


STOCK = {
    ActorCriticPolicy: (PPO, A2C, TRPO),
    RecurrentActorCriticPolicy: (RecurrentPPO,),
    MaskableActorCriticPolicy: (MaskablePPO,),
    DQNPolicy: (DQN,),
    QRDQNPolicy: (QRDQN,),
    SACPolicy: (SAC,),
    TD3Policy: (TD3,),
    TQCPolicy: (TQC,),
    CrossQPolicy: (CrossQ,),
}
"""The algorithms of each family of policies."""


def test_with_norm_knows_every_family_that_has_names_of_its_own():
    assert MIXINS.keys() == STOCK.keys()
    algorithms = {algorithm for family in STOCK.values() for algorithm in family}
    assert algorithms <= wn.ALIASES.keys()


@pytest.mark.parametrize("family", STOCK)
def test_with_norm_serves_a_users_subclass_of_any_family(tmp_path, family):
    own = type("Own", (family,), {"__module__": __name__})
    continuous = family in (SACPolicy, TD3Policy, TQCPolicy, CrossQPolicy)
    env = RandomTask(action_space=spaces.Box(-1.0, 1.0, (2,)) if continuous else None)
    recurrent = family is RecurrentActorCriticPolicy
    replayed = continuous or family in (DQNPolicy, QRDQNPolicy)
    steps = {"learning_starts": 4} if replayed else {"n_steps": 8}
    for algorithm in STOCK[family]:
        model = algorithm(
            wn.with_norm(own), env, device="cpu", **steps,
            **({"batch_size": 8} if algorithm is not A2C else {}),
            policy_kwargs={"net_arch": [8], **({"lstm_hidden_size": 8} if recurrent else {})},
        ).learn(16)  # fmt: skip
        assert any(isinstance(part, WNLinear | WNLSTM) for part in model.policy.modules())
        model.save(tmp_path / "model")
        again = algorithm.load(tmp_path / "model", device="cpu")
        obs = sample(VECTOR)
        np.testing.assert_array_equal(
            again.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0]
        )


@pytest.mark.parametrize("wrong", [torch.nn.Linear, "MlpPolicy"])
def test_with_norm_refuses_what_is_no_policy_of_sb3(wrong):
    with pytest.raises(UsageError, match="policy_class must be a subclass of"):
        wn.with_norm(wrong)


def test_policy_with_several_parameter_groups_is_refused():
    with pytest.raises(UsageError, match="optimizer of 2 parameter groups"):
        make(PPO, wn.with_norm(TwoGroups))


@pytest.mark.parametrize(
    "norm", [name for name in NORMS if name not in ("none", "weight", "weight_mean", "spectral")]
)
def test_a_norm_of_hidden_layers_is_refused_where_there_are_none(norm):
    with pytest.raises(UsageError, match=rf"norm '{norm}' is for hidden layers.*net_arch=\[\]"):
        make(PPO, "WNMlpPolicy", norm=norm, net_arch=[])


@pytest.mark.parametrize("norm", ["layer", "rms", "projected"])
def test_a_recurrent_layer_alone_takes_the_norms_that_have_a_version_of_it(norm):
    policy = make_recurrent("WNMlpLstmPolicy", VECTOR, norm=norm, net_arch=[]).policy
    assert policy.plain_parts == []


def test_parameters_in_no_optimizer_are_named():
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    with pytest.raises(UsageError, match=r"in no optimizer: 1\.weight, 1\.bias"):
        check_optimized(net, torch.optim.SGD(net[0].parameters()))


def test_a_stock_policy_is_not_converted_behind_the_back_of_its_optimizer():
    model = PPO("MlpPolicy", "CartPole-v1", device="cpu")
    with pytest.raises(UsageError, match=r"optimizer already \(optimizer\).*load_weights"):
        convert(model.policy, "weight")


def test_a_state_that_does_not_fit_is_told_as_torch_tells_it():
    policy, other = (make(PPO, "WNMlpPolicy", net_arch=[size]).policy for size in (4, 5))
    state = other.state_dict()
    state["more"] = state.pop("action_net.bias")
    with pytest.raises(RuntimeError) as caught:
        policy.load_state_dict(state)
    text = str(caught.value)
    assert isinstance(caught.value, UsageError)
    assert 'Missing key(s) in state_dict: "action_net.bias"' in text
    assert 'Unexpected key(s) in state_dict: "more"' in text
    assert "size mismatch for action_net.weight: copying a param with shape torch.Size" in text
    assert text.count("size mismatch") == 8


@pytest.mark.parametrize("assign", [False, True])
def test_a_refused_state_changes_neither_the_policy_nor_itself(assign):
    policy, other = (make(PPO, "WNMlpPolicy").policy for _ in range(2))
    optimized = [p for group in policy.optimizer.param_groups for p in group["params"]]
    state = {name: value + 1 for name, value in other.state_dict().items()}
    state["value_net.bias"] = torch.ones(2)
    before, given = copy.deepcopy((policy.state_dict(), state))
    with pytest.raises(StateError, match="size mismatch"):
        policy.load_state_dict(state, assign=assign)
    torch.testing.assert_close(policy.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(state, given, rtol=0, atol=0)
    assert {*map(id, policy.parameters())} == {*map(id, optimized)}


class Swish(torch.nn.Module):
    def forward(self, x):
        return x * x.sigmoid()


@pytest.mark.parametrize("norm", ["layer", "batch", "projected", "weight_mean"])
@pytest.mark.parametrize(
    ("algorithm", "task"), [(PPO, "CartPole-v1"), (DQN, "CartPole-v1"), (SAC, "Pendulum-v1")]
)
def test_a_nonlinearity_of_ones_own_has_a_norm_in_front_of_it(algorithm, task, norm):
    given = algorithm(
        "WNMlpPolicy", task, device="cpu", policy_kwargs={"norm": norm, "activation_fn": Swish}
    ).policy
    known = algorithm(
        "WNMlpPolicy",
        task,
        device="cpu",
        policy_kwargs={"norm": norm, "activation_fn": torch.nn.SiLU},
    ).policy
    assert given.plain_parts == known.plain_parts
    assert given.state_dict().keys() == known.state_dict().keys()


@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_has_policies_of_its_name(norm):
    word = norm.replace("_", " ").title().replace(" ", "")
    for algorithm, policies in wn.ALIASES.items():
        for ours, policy in policies.items():
            name = ours.replace("WN", word)
            assert name in algorithm.policy_aliases
            named = algorithm.policy_aliases[name]
            assert issubclass(named, policy)
            assert named.default_norm == norm
            assert pickle.loads(pickle.dumps(named)) is named


def test_an_agent_keeps_the_norm_of_its_policys_name(tmp_path):
    model = make(PPO, "LayerMlpPolicy", net_arch=[8])
    assert model.policy.norm == "layer"
    model.save(tmp_path / "model")
    assert PPO.load(tmp_path / "model", device="cpu").policy.norm == "layer"
    assert make(PPO, "LayerMlpPolicy", norm="weight").policy.norm == "weight"


def test_a_norm_that_is_added_later_has_its_names(monkeypatch):
    monkeypatch.setitem(NORMS, "my_own", NORMS["layer"])
    assert make(PPO, "MyOwnMlpPolicy").policy.norm == "my_own"
    monkeypatch.delitem(NORMS, "my_own")
    with pytest.raises(ValueError, match="MyOwnMlpPolicy unknown"):
        make(PPO, "MyOwnMlpPolicy")


def test_a_name_that_no_norm_has_is_unknown():
    assert "FooMlpPolicy" not in PPO.policy_aliases
    with pytest.raises(ValueError, match="FooMlpPolicy unknown"):
        make(PPO, "FooMlpPolicy")
    with pytest.raises(AttributeError, match="no attribute 'FooMlpPolicy'"):
        wn.FooMlpPolicy  # noqa: B018


@pytest.mark.parametrize(("algorithm", "task"), [(PPO, "CartPole-v1"), (SAC, "Pendulum-v1")])
def test_the_rate_of_g_starts_as_the_stock_policy_and_is_saved(algorithm, task, tmp_path):
    def build(policy, **kwargs):
        options = {"net_arch": [8], **kwargs}
        return algorithm(policy, task, seed=0, device="cpu", policy_kwargs=options)

    stock = build("MlpPolicy")
    model = build("WNMlpPolicy", norm_kwargs={"g_rate": 8}, norm_heads=True)
    obs = np.stack([stock.observation_space.sample() for _ in range(20)])
    expected = stock.predict(obs, deterministic=True)[0]
    np.testing.assert_allclose(model.predict(obs, deterministic=True)[0], expected, rtol=1e-5)
    model.save(tmp_path / "model")
    again = algorithm.load(tmp_path / "model", device="cpu")
    acts = [agent.predict(obs, deterministic=True)[0] for agent in (again, model)]
    np.testing.assert_array_equal(*acts)
    stock.policy.load_state_dict(state_dict_as(model.policy))
    np.testing.assert_allclose(stock.predict(obs, deterministic=True)[0], expected, rtol=1e-5)
