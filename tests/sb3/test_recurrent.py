import pytest
import torch
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from torch import nn

import envs  # noqa: F401 (registers the masked tasks)
import wnrl.sb3 as wn
from wnrl import WNLSTM

T, N, INPUT, H = 7, 3, 4, 5


class Counting(nn.LSTM):
    calls = 0

    def forward(self, *args):
        self.calls += 1
        return super().forward(*args)


@pytest.fixture
def lstm():
    torch.manual_seed(0)
    return Counting(INPUT, H)


def inputs(starts, length=T):
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(N * length, INPUT, generator=generator)
    states = tuple(torch.randn(1, N, H, generator=generator) for _ in range(2))
    episode_starts = torch.zeros(N, length)
    for sequence, step in starts:
        episode_starts[sequence, step] = 1.0
    return features, states, episode_starts.flatten()


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
    arguments = inputs([(0, 0), (1, 2)])
    expected, _ = wn.WNMlpLstmPolicy._process_sequence(*arguments, plain)
    actual, _ = wn.WNMlpLstmPolicy._process_sequence(*arguments, WNLSTM.from_plain(plain))
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("policy_kwargs", [{}, {"n_lstm_layers": 2}, {"enable_critic_lstm": False}])
def test_trained_parameters_equal_stocks_at_the_same_seed(policy_kwargs):
    trained = []
    for policy, norm in (("MlpLstmPolicy", {}), ("WNMlpLstmPolicy", {"norm": "none"})):
        model = RecurrentPPO(
            policy, "CartPoleNoVel-v1", n_steps=64, batch_size=32, n_epochs=4, seed=3, device="cpu",
            policy_kwargs={"lstm_hidden_size": 16, **policy_kwargs, **norm},
        ).learn(384)  # fmt: skip
        trained.append(dict(model.policy.named_parameters()))
    stock, ours = trained
    assert stock.keys() == ours.keys()
    for name in stock:
        torch.testing.assert_close(ours[name], stock[name], rtol=0, atol=1e-4)
