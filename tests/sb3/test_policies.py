import copy
import pickle

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.policies import ActorCriticPolicy

import wnrl.sb3 as wn
from wnrl import NORMS, WNLSTM, WNConv2d, WNLinear
from wnrl.errors import UsageError

PAIRED = [name for name, norm in NORMS.items() if norm.paired]
VECTOR = spaces.Box(-1.0, 1.0, (5,))
IMAGE = spaces.Box(0, 255, (1, 36, 36), np.uint8)
DICT = spaces.Dict({"a": VECTOR, "b": spaces.Box(-1.0, 1.0, (2, 2))})
FAMILIES = {
    "WNMlpPolicy": (PPO, "MlpPolicy", VECTOR),
    "WNCnnPolicy": (PPO, "CnnPolicy", IMAGE),
    "WNMultiInputPolicy": (PPO, "MultiInputPolicy", DICT),
    "WNMlpLstmPolicy": (RecurrentPPO, "MlpLstmPolicy", VECTOR),
    "WNCnnLstmPolicy": (RecurrentPPO, "CnnLstmPolicy", IMAGE),
    "WNMultiInputLstmPolicy": (RecurrentPPO, "MultiInputLstmPolicy", DICT),
}


class RandomTask(gym.Env):
    """Random observations of any space; episodes of seven steps."""

    def __init__(self, observation_space, action_space=None):
        self.observation_space = observation_space
        self.action_space = action_space or spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.t += 1
        return self.observation_space.sample(), 1.0, self.t == 7, False, {}


def make(algorithm, policy, env, **policy_kwargs):
    return algorithm(
        policy, env, n_steps=16, batch_size=16, n_epochs=2, seed=0, device="cpu",
        policy_kwargs=policy_kwargs,
    )  # fmt: skip


def small(algorithm, **others):
    return {**others, "lstm_hidden_size": 8} if algorithm is RecurrentPPO else others


def act(model, obs):
    """Values and log-probabilities of action 0, from zero states."""
    policy = model.policy
    policy.set_training_mode(False)
    obs_tensor, _ = policy.obs_to_tensor(obs)
    actions = torch.zeros(4, dtype=torch.long)
    with torch.no_grad():
        if isinstance(model, RecurrentPPO):
            layers, _, hidden = policy.lstm_hidden_state_shape
            zeros = (torch.zeros(layers, 4, hidden), torch.zeros(layers, 4, hidden))
            states = type(model._last_lstm_states)(zeros, zeros)
            return policy.evaluate_actions(obs_tensor, actions, states, torch.zeros(4))
        return policy.evaluate_actions(obs_tensor, actions)


def sample(space, n=4):
    space.seed(1)
    draws = [space.sample() for _ in range(n)]
    if isinstance(space, spaces.Dict):
        return {key: np.stack([draw[key] for draw in draws]) for key in space}
    return np.stack(draws)


@pytest.mark.parametrize("norm", PAIRED)
@pytest.mark.parametrize("alias", FAMILIES)
def test_paired_norms_start_as_the_same_function_as_stock_at_the_same_seed(alias, norm):
    algorithm, stock_alias, space = FAMILIES[alias]
    stock = make(algorithm, stock_alias, RandomTask(space), **small(algorithm))
    ours = make(algorithm, alias, RandomTask(space), **small(algorithm, norm=norm))
    obs = sample(space)
    for expected, actual in zip(act(stock, obs), act(ours, obs), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_action_head_keeps_its_gain_of_one_hundredth(norm):
    policy = make(PPO, "WNMlpPolicy", "CartPole-v1", norm=norm).policy
    torch.testing.assert_close(policy.action_net.weight.norm(dim=1), torch.full((2,), 0.01))


def test_hidden_layers_keep_their_orthogonal_rows():
    hidden = make(PPO, "WNMlpPolicy", "CartPole-v1").policy.mlp_extractor.policy_net[2]
    torch.testing.assert_close(hidden.weight_g, torch.full((64, 1), 2**0.5))
    torch.testing.assert_close(hidden.weight @ hidden.weight.T, 2 * torch.eye(64))


@pytest.mark.parametrize(("norm_heads", "head"), [(False, torch.nn.Linear), (True, WNLinear)])
def test_output_heads_take_the_norm_only_when_asked(norm_heads, head):
    model = make(PPO, "WNMlpPolicy", RandomTask(VECTOR), norm_heads=norm_heads)
    stock = make(PPO, "MlpPolicy", RandomTask(VECTOR))
    assert type(model.policy.action_net) is type(model.policy.value_net) is head
    assert type(model.policy.mlp_extractor.value_net[2]) is WNLinear
    for expected, actual in zip(
        act(stock, sample(VECTOR)), act(model, sample(VECTOR)), strict=True
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("alias", "layers"),
    [("WNMlpPolicy", WNLinear), ("WNCnnPolicy", WNConv2d), ("WNMlpLstmPolicy", WNLSTM)],
)
def test_weight_is_the_norm_of_the_named_policies_unless_said_otherwise(alias, layers):
    algorithm, _, space = FAMILIES[alias]
    policy = make(algorithm, alias, RandomTask(space), **small(algorithm)).policy
    assert policy.norm == "weight"
    assert any(isinstance(module, layers) for module in policy.modules())


@pytest.mark.parametrize("norm_heads", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_heads_are_listed_as_plain_where_the_norm_could_have_taken_them(norm, norm_heads):
    policy = make(PPO, "WNMlpPolicy", "CartPole-v1", norm=norm, norm_heads=norm_heads).policy
    listed = norm in ("weight", "weight_mean", "spectral") and not norm_heads
    assert policy.plain_parts == (["action_net", "value_net"] if listed else [])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("alias", FAMILIES)
def test_every_parameter_is_in_the_optimizer_and_moves_and_no_bias_is_lost(alias, norm):
    algorithm, stock_alias, space = FAMILIES[alias]
    env = RandomTask(space)
    stock = make(algorithm, stock_alias, env, **small(algorithm)).policy
    model = make(algorithm, alias, env, **small(algorithm, norm=norm))
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
@pytest.mark.parametrize("alias", ["WNMlpPolicy", "WNCnnPolicy", "WNMlpLstmPolicy"])
def test_saved_agent_acts_the_same_and_resumes_with_the_same_optimizer(tmp_path, alias, norm):
    algorithm, _, space = FAMILIES[alias]
    model = make(algorithm, alias, RandomTask(space), **small(algorithm, norm=norm)).learn(32)
    model.save(tmp_path / "model")
    again = algorithm.load(tmp_path / "model", env=RandomTask(space), device="cpu")
    assert again.policy.norm == norm
    obs = sample(space)
    for expected, actual in zip(act(model, obs), act(again, obs), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    ours, theirs = model.policy.optimizer.state_dict(), again.policy.optimizer.state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    for key, moments in ours["state"].items():
        assert torch.equal(moments["exp_avg"], theirs["state"][key]["exp_avg"])
    again.learn(32, reset_num_timesteps=False)
    assert again.num_timesteps == 64


@pytest.mark.parametrize("norm", ["weight", "layer"])
def test_policy_save_and_load_keep_every_argument(tmp_path, norm):
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
    model = make(RecurrentPPO, "WNMlpLstmPolicy", RandomTask(VECTOR), **arguments)
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


def test_a2c_takes_the_names_as_well():
    model = A2C("WNMlpPolicy", "CartPole-v1", device="cpu").learn(20)
    assert isinstance(model.policy, wn.WNMlpPolicy)


@pytest.mark.parametrize("norm", NORMS)
def test_policy_survives_deepcopy_and_pickle_after_a_step(norm):
    model = make(PPO, "WNMlpPolicy", RandomTask(VECTOR), norm=norm).learn(16)
    obs = sample(VECTOR)
    expected = act(model, obs)
    for twin in (copy.deepcopy(model.policy), pickle.loads(pickle.dumps(model.policy))):
        model.policy = twin
        for left, right in zip(expected, act(model, obs), strict=True):
            assert torch.equal(left, right)


def test_lstm_under_batch_norm_is_plain_and_listed():
    policy = make(
        RecurrentPPO, "WNMlpLstmPolicy", "CartPole-v1", norm="batch", lstm_hidden_size=8
    ).policy
    assert policy.plain_parts == ["lstm_actor", "lstm_critic"]
    assert type(policy.lstm_actor) is torch.nn.LSTM


def test_projected_rows_stay_on_the_sphere_during_training():
    policy = make(PPO, "WNMlpPolicy", "CartPole-v1", norm="projected").learn(64).policy
    for net in (policy.mlp_extractor.policy_net, policy.mlp_extractor.value_net):
        for layer in net[::2]:
            torch.testing.assert_close(layer.weight.norm(dim=1), torch.ones(64))
    assert not torch.allclose(policy.value_net.weight.norm(), torch.tensor(1.0))


def test_unknown_norm_and_unknown_option_are_refused():
    with pytest.raises(UsageError, match="did you mean 'weight'"):
        make(PPO, "WNMlpPolicy", "CartPole-v1", norm="wieght")
    with pytest.raises(UsageError, match="momentun"):
        make(PPO, "WNMlpPolicy", "CartPole-v1", norm="batch", norm_kwargs={"momentun": 0.5})


def test_norm_options_reach_the_normaliser():
    policy = make(
        PPO, "WNMlpPolicy", "CartPole-v1", norm="batch", norm_kwargs={"momentum": 0.25}
    ).policy
    found = [m.momentum for m in policy.modules() if isinstance(m, torch.nn.BatchNorm1d)]
    assert found == [0.25] * 4


class OwnPolicy(ActorCriticPolicy):
    def __init__(self, *args, width=16, **kwargs):
        super().__init__(*args, net_arch=[width], **kwargs)


WNOwnPolicy = wn.with_norm(OwnPolicy)


class TwoGroups(ActorCriticPolicy):
    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        head = list(self.action_net.parameters())
        rest = [p for p in self.parameters() if not any(p is h for h in head)]
        self.optimizer = torch.optim.Adam([{"params": rest}, {"params": head, "lr": 1e-4}])


def test_with_norm_gives_a_users_policy_a_norm_and_keeps_its_arguments(tmp_path):
    policy_class = wn.with_norm(OwnPolicy, "layer")
    model = make(PPO, policy_class, "CartPole-v1", width=5)
    assert model.policy.norm == "layer"
    assert sum(isinstance(m, torch.nn.LayerNorm) for m in model.policy.modules()) == 2
    model.policy.save(tmp_path / "policy.pt")
    assert model.policy.value_net.in_features == 5
    assert model.policy._get_constructor_parameters()["width"] == 5


def test_a_class_made_by_with_norm_survives_pickle_and_sb3s_saving(tmp_path):
    model = make(PPO, WNOwnPolicy, RandomTask(VECTOR), width=5).learn(16)
    model.save(tmp_path / "model")
    obs = sample(VECTOR)
    expected = act(model, obs)
    again = PPO.load(tmp_path / "model", device="cpu")
    for left, right in zip(expected, act(again, obs), strict=True):
        assert torch.equal(left, right)
    model.policy = pickle.loads(pickle.dumps(model.policy))
    for left, right in zip(expected, act(model, obs), strict=True):
        assert torch.equal(left, right)


def test_with_norm_runs_a_recurrent_policy_over_whole_sequences():
    policy_class = wn.with_norm(RecurrentActorCriticPolicy)
    assert policy_class._process_sequence is wn.WNMlpLstmPolicy._process_sequence


def test_with_norm_of_ours_changes_the_default_alone():
    policy_class = wn.with_norm(wn.WNMlpPolicy, "none")
    assert make(PPO, policy_class, "CartPole-v1").policy.norm == "none"


@pytest.mark.parametrize("wrong", [torch.nn.Linear, "MlpPolicy"])
def test_with_norm_refuses_what_is_no_actor_critic_policy(wrong):
    with pytest.raises(UsageError, match=r"subclass of one of .*ActorCriticPolicy"):
        wn.with_norm(wrong)


def test_policy_with_several_parameter_groups_is_refused():
    with pytest.raises(UsageError, match="optimizer of 2 parameter groups"):
        make(PPO, wn.with_norm(TwoGroups), "CartPole-v1")


def test_parameters_in_no_optimizer_are_named():
    from wnrl.sb3.common import check_optimized

    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    with pytest.raises(UsageError, match=r"in no optimizer: 1\.weight, 1\.bias"):
        check_optimized(net, torch.optim.SGD(net[0].parameters()))
