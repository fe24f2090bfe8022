import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from torch import nn

import envs  # noqa: F401 (registers the masked tasks)
import wnrl.sb3 as wn
from wnrl import NORMS, WNGRU, WNLSTM
from wnrl.errors import UsageError
from wnrl.nn.spectral import SpectralGRU
from wnrl.sb3.recurrent import RecurrentNormMixin

T, N, INPUT, H = 7, 3, 4, 5
POLICIES = [wn.WNMlpLstmPolicy, wn.WNMlpGruPolicy]
IMAGE = spaces.Box(0, 255, (1, 36, 36), np.uint8)
VECTOR = spaces.Box(-1.0, 1.0, (INPUT,))


class RandomTask(gym.Env):
    """Random observations of any space; episodes of five steps."""

    def __init__(self, observation_space):
        self.observation_space, self.action_space = observation_space, spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.observation_space.seed(seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.t += 1
        return self.observation_space.sample(), float(action), self.t == 5, False, {}


class Counting(nn.LSTM):
    calls = 0

    def forward(self, *args):
        self.calls += 1
        return super().forward(*args)


@pytest.fixture
def lstm():
    torch.manual_seed(0)
    return Counting(INPUT, H)


def inputs(starts, length=T, layers=1):
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(N * length, INPUT, generator=generator)
    states = tuple(torch.randn(layers, N, H, generator=generator) for _ in range(2))
    episode_starts = torch.zeros(N, length)
    for sequence, step in starts:
        episode_starts[sequence, step] = 1.0
    return features, states, episode_starts.flatten()


def random_starts(share=0.3):
    return (torch.rand(N, T, generator=torch.Generator().manual_seed(2)) < share).nonzero().tolist()


@pytest.mark.parametrize(
    ("starts", "calls"),
    [
        ([], 1),
        ([(0, 0), (2, 0)], 1),
        ([(1, 3)], 2),
        ([(0, 0), (1, 3), (2, 3), (0, 6)], 3),
        ([(0, step) for step in range(T)], T),
    ],
)
def test_sequences_equal_upstreams_steps_with_a_call_for_each_cut(lstm, starts, calls):
    arguments = inputs(starts)
    expected, expected_states = RecurrentActorCriticPolicy._process_sequence(*arguments, lstm)
    lstm.calls = 0
    actual, states = wn.WNMlpLstmPolicy._process_sequence(*arguments, lstm)
    assert lstm.calls == calls
    torch.testing.assert_close(actual, expected)
    for left, right in zip(states, expected_states, strict=True):
        torch.testing.assert_close(left, right)


def test_first_episode_step_resets_the_lstm_state(lstm):
    features, states, _ = inputs([], length=1)
    reset = torch.tensor([0.0, 1.0, 0.0])
    actual, _ = wn.WNMlpLstmPolicy._process_sequence(features, states, reset, lstm)
    fresh, _ = lstm(features[1].view(1, 1, INPUT))
    torch.testing.assert_close(actual[1], fresh[0, 0])
    continued, _ = lstm(features[0].view(1, 1, INPUT), tuple(s[:, :1].contiguous() for s in states))
    torch.testing.assert_close(actual[0], continued[0, 0])


def test_a_weight_normalized_lstm_runs_over_sequences_like_a_plain_one(lstm):
    plain = nn.LSTM(INPUT, H)
    plain.load_state_dict(lstm.state_dict())
    arguments = inputs(random_starts())
    expected, _ = wn.WNMlpLstmPolicy._process_sequence(*arguments, plain)
    actual, _ = wn.WNMlpLstmPolicy._process_sequence(*arguments, WNLSTM.from_plain(plain))
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", [nn.GRU, WNGRU, SpectralGRU])
def test_a_gru_equals_one_stepped_by_hand_with_resets(kind, layers):
    torch.manual_seed(0)
    gru = nn.GRU(INPUT, H, layers)
    gru = (gru if kind is nn.GRU else kind.from_plain(gru)).eval()
    features, (h, c), episode_starts = arguments = inputs(random_starts(), layers=layers)
    actual, (last_h, last_c) = wn.WNMlpGruPolicy._process_sequence(*arguments, gru)
    outputs = []
    for x, starts in zip(
        features.view(N, T, INPUT).unbind(1), episode_starts.view(N, T).unbind(1), strict=True
    ):
        h = torch.where(starts.bool().view(1, N, 1), 0.0, h)
        output, h = gru(x.unsqueeze(0), h)
        outputs.append(output[0])
    torch.testing.assert_close(actual.view(N, T, H), torch.stack(outputs, 1))
    torch.testing.assert_close(last_h, h)
    assert last_c is c


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("starts", [[], [(1, 3), (0, 5)]])
def test_weights_are_computed_once_however_often_the_sequences_are_cut(monkeypatch, starts):
    computed = []
    layer = WNLSTM(INPUT, H)
    compute = layer._compute
    monkeypatch.setattr(layer, "_compute", lambda: computed.append(1) or compute())
    output, _ = wn.WNMlpLstmPolicy._process_sequence(*inputs(starts), layer)
    output.sum().backward()
    assert len(computed) == 1
    assert layer.weight_hh_l0_g.grad.abs().sum() > 0


def make(policy, space=VECTOR, **policy_kwargs):
    sizes = {"lstm_hidden_size": 8, "net_arch": [8]}
    return RecurrentPPO(
        policy, RandomTask(space), n_steps=16, batch_size=12, n_epochs=2, seed=0, device="cpu",
        policy_kwargs={**sizes, **policy_kwargs},
    )  # fmt: skip


def zero_states(policy, n):
    layers, _, hidden = policy.lstm_hidden_state_shape
    pair = (torch.zeros(layers, n, hidden), torch.zeros(layers, n, hidden))
    return RNNStates(pair, pair)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("policy", ["WNMlpLstmPolicy", "WNMlpGruPolicy"])
def test_weights_are_computed_once_a_rollout_and_once_a_minibatch(monkeypatch, policy):
    model = make(policy)
    computed = []
    for layer in (model.policy.lstm_actor, model.policy.lstm_critic):
        compute = layer._compute
        monkeypatch.setattr(
            layer, "_compute", lambda f=compute, who=layer: computed.append(who) or f()
        )
    model.learn(16)
    minibatches = 2 * 2  # 16 steps in minibatches of 12, for two epochs
    for layer in (model.policy.lstm_actor, model.policy.lstm_critic):
        assert sum(who is layer for who in computed) == 1 + minibatches


@pytest.mark.parametrize(
    "variant",
    [{}, {"n_lstm_layers": 2}, {"enable_critic_lstm": False, "shared_lstm": True}],
    ids=["separate", "two-layers", "shared"],
)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("policy_class", POLICIES)
def test_learning_from_sequences_sees_what_acting_step_by_step_saw(policy_class, norm, variant):
    policy = make(policy_class, norm=norm, **variant).policy
    policy.set_training_mode(False)
    generator = torch.Generator().manual_seed(0)
    obs = torch.rand(N, T, INPUT, generator=generator)
    starts = (torch.rand(N, T, generator=generator) < 0.3).float()
    states, seen = zero_states(policy, N), []
    with torch.no_grad():
        for t in range(T):
            if t == T - 1:
                last_value = policy.predict_values(obs[:, t], states.vf, starts[:, t])
            actions, values, log_prob, states = policy(obs[:, t], states, starts[:, t])
            seen.append((actions, values, log_prob))
        actions, values, log_prob = (torch.stack(parts, 1) for parts in zip(*seen, strict=True))
        evaluated = policy.evaluate_actions(
            obs.flatten(0, 1), actions.flatten(), zero_states(policy, N), starts.flatten()
        )
    torch.testing.assert_close(evaluated[0], values.flatten(0, 1))
    torch.testing.assert_close(evaluated[1], log_prob.flatten())
    torch.testing.assert_close(last_value, values[:, -1])


STOCK_VARIANTS = {
    "separate": {},
    "separate extractors": {"share_features_extractor": False},
    "shared": {"shared_lstm": True, "enable_critic_lstm": False},
    "linear critic": {"enable_critic_lstm": False},
}


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("variant", STOCK_VARIANTS)
def test_trained_parameters_equal_stocks_at_the_same_seed(variant, layers):
    trained = []
    for policy, norm in (("MlpLstmPolicy", {}), ("WNMlpLstmPolicy", {"norm": "none"})):
        model = RecurrentPPO(
            policy, "CartPoleNoVel-v1", n_steps=64, batch_size=32, n_epochs=4, seed=3, device="cpu",
            policy_kwargs={
                "lstm_hidden_size": 16, "n_lstm_layers": layers, **STOCK_VARIANTS[variant], **norm,
            },
        ).learn(128)  # fmt: skip
        trained.append(dict(model.policy.named_parameters()))
    stock, ours = trained
    assert stock.keys() == ours.keys()
    for name in stock:
        torch.testing.assert_close(ours[name], stock[name], rtol=0, atol=1e-4)


@pytest.mark.parametrize("space", [IMAGE, spaces.Dict({"a": VECTOR, "b": IMAGE})])
def test_trained_parameters_equal_stocks_from_images_too(space):
    family = "MultiInput" if isinstance(space, spaces.Dict) else "Cnn"
    stock, ours = (
        dict(make(policy, space, **norm).learn(32).policy.named_parameters())
        for policy, norm in (
            (f"{family}LstmPolicy", {}),
            (f"WN{family}LstmPolicy", {"norm": "none"}),
        )
    )
    assert stock.keys() == ours.keys()
    for name in stock:
        torch.testing.assert_close(ours[name], stock[name], rtol=0, atol=1e-4)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("alias", "space"),
    [
        ("WNMlpGruPolicy", VECTOR),
        ("WNCnnGruPolicy", IMAGE),
        ("WNMultiInputGruPolicy", spaces.Dict({"a": VECTOR})),
    ],
)
def test_every_parameter_of_a_gru_policy_learns_and_c_stays_zero(alias, space, norm):
    model = make(alias, space, norm=norm)
    policy = model.policy
    assert isinstance(policy.lstm_actor, nn.GRU | WNGRU)
    assert isinstance(policy.lstm_critic, nn.GRU | WNGRU)
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    model.learn(32)
    assert [n for n, p in policy.named_parameters() if torch.equal(p, before[n])] == []
    for _, c in model._last_lstm_states:
        assert not c.any()
    assert model._last_lstm_states.pi[0].any()


@pytest.mark.parametrize("norm", ["weight", "layer"])
def test_a_saved_gru_agent_predicts_the_same_and_resumes_with_the_same_optimizer(tmp_path, norm):
    model = make("WNMlpGruPolicy", norm=norm, n_lstm_layers=2).learn(32)
    model.save(tmp_path / "model")
    again = RecurrentPPO.load(tmp_path / "model", env=RandomTask(VECTOR), device="cpu")
    states = [None, None]
    for obs in np.random.default_rng(0).uniform(-1, 1, (4, 1, INPUT)).astype(np.float32):
        actions = []
        for i, agent in enumerate((model, again)):
            action, states[i] = agent.predict(obs, states[i], deterministic=True)
            actions.append(action)
        np.testing.assert_array_equal(*actions)
        np.testing.assert_array_equal(states[0], states[1])
    ours, theirs = model.policy.optimizer.state_dict(), again.policy.optimizer.state_dict()
    assert ours["state"].keys() == theirs["state"].keys() != set()
    for key, moments in ours["state"].items():
        assert torch.equal(moments["exp_avg_sq"], theirs["state"][key]["exp_avg_sq"])
    again.learn(32, reset_num_timesteps=False)
    assert again.num_timesteps == 64


def test_predicting_goes_on_from_the_state_and_starts_anew_at_an_episode_start():
    model = make("WNMlpGruPolicy")
    obs = np.full((1, INPUT), 0.5, np.float32)
    _, first = model.predict(obs)
    _, second = model.predict(obs, first, episode_start=np.array([False]))
    _, restarted = model.predict(obs, second, episode_start=np.array([True]))
    assert np.abs(second[0] - first[0]).max() > 1e-3
    np.testing.assert_allclose(restarted[0], first[0], atol=1e-7)


@pytest.mark.parametrize("policy_class", POLICIES)
def test_policy_save_and_load_keep_every_recurrent_argument(tmp_path, policy_class):
    arguments = {
        "lstm_hidden_size": 6,
        "n_lstm_layers": 2,
        "shared_lstm": True,
        "enable_critic_lstm": False,
        "lstm_kwargs": {"bias": False},
        "norm": "spectral",
    }
    policy = make(policy_class, **arguments).policy
    policy.save(tmp_path / "policy.pt")
    again = policy_class.load(tmp_path / "policy.pt", device="cpu")
    kept = again._get_constructor_parameters()
    assert {key: kept[key] for key in arguments} == arguments
    assert type(again.lstm_actor) is type(policy.lstm_actor)
    assert again.lstm_actor.num_layers == 2
    assert not again.lstm_actor.bias


@pytest.mark.parametrize("norm", ["layer", "rms", "batch"])
def test_a_gru_without_a_version_of_its_own_is_plain_and_listed(norm):
    policy = make("WNMlpGruPolicy", norm=norm).policy
    assert policy.plain_parts == ["lstm_actor", "lstm_critic"]


def test_acting_evaluates_no_critic():
    policy = make("WNMlpLstmPolicy").policy

    def fail(*_):
        raise AssertionError("the critic was evaluated")

    for part in (policy.lstm_critic, policy.mlp_extractor.value_net, policy.value_net):
        part.register_forward_pre_hook(fail)
    action, _ = policy.predict(np.zeros((1, INPUT), np.float32))
    assert action.shape == (1,)


@pytest.mark.parametrize("option", ["batch_first", "bidirectional"])
def test_layers_that_the_sequences_do_not_fit_are_refused(option):
    with pytest.raises(UsageError, match=f"lstm_kwargs may hold bias, dropout; got '{option}'"):
        make("WNMlpLstmPolicy", lstm_kwargs={option: True})


class OwnPolicy(RecurrentActorCriticPolicy):
    def __init__(self, *args, width=6, **kwargs):
        super().__init__(*args, **{**kwargs, "lstm_hidden_size": width})


def test_a_users_own_recurrent_policy_takes_a_gru_by_one_attribute():
    with_gru = type("Own", (wn.with_norm(OwnPolicy),), {"rnn": nn.GRU})
    policy = make(with_gru, width=7).policy
    assert issubclass(with_gru, RecurrentNormMixin)
    assert isinstance(policy.lstm_actor, WNGRU)
    assert policy.lstm_actor.hidden_size == 7
