import copy

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.utils import ConstantSchedule

import wnrl.sb3 as wn
from wnrl.sb3.parts import batch_norms
from wnrl.sb3.recurrent import find_padding

LENGTHS = (5, 2, 4)
N, T = len(LENGTHS), max(LENGTHS)
VECTOR = spaces.Box(-1.0, 1.0, (3,))
IMAGE = spaces.Box(0, 255, (1, 36, 36), np.uint8)
SPACES = {
    "Mlp": VECTOR,
    "Cnn": IMAGE,
    "MultiInput": spaces.Dict({"a": VECTOR, "b": IMAGE}),
}
BATCH_NORMS = ("batch", "batch_renorm", "mean", "weight_mean")
REAL = torch.tensor([t < length for length in LENGTHS for t in range(T)])


def make(family, norm, **policy_kwargs):
    torch.manual_seed(0)
    policy_class = getattr(wn, f"WN{family}LstmPolicy")
    return policy_class(
        SPACES[family], spaces.Discrete(2), ConstantSchedule(1e-3), norm=norm, lstm_hidden_size=8,
        net_arch=[8], **policy_kwargs,
    )  # fmt: skip


def draw(space):
    """Observations of ``N * T`` steps, zero where padded."""
    if isinstance(space, spaces.Dict):
        return {key: draw(part) for key, part in space.items()}
    space.seed(1)
    obs = torch.as_tensor(np.stack([space.sample() for _ in range(N * T)]))
    obs[~REAL] = 0
    return obs


def minibatch(family):
    actions = torch.randint(0, 2, (N * T,), generator=torch.Generator().manual_seed(0))
    pair = (torch.zeros(1, N, 8), torch.zeros(1, N, 8))
    starts = torch.zeros(N, T)
    starts[:, 0] = 1.0
    return draw(SPACES[family]), actions * REAL, RNNStates(pair, pair), starts.flatten()


def test_padding_is_what_is_zero_from_some_step_to_the_end_of_its_sequence():
    obs = torch.tensor([[1.0, 0.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 3.0, 0.0, 0.0]])
    actions = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 1, 0]])
    rows = find_padding(obs.view(12, 1), actions.flatten(), n_seq=3)
    assert rows.padded.tolist() == [3, 5, 6, 7, 11]
    assert rows.real.tolist() == [0, 1, 2, 4, 8, 9, 10]


def test_a_part_of_a_dict_observation_or_of_an_action_that_is_not_zero_makes_a_step_real():
    obs = {"a": torch.zeros(4, 2), "b": torch.zeros(4, 1, 2, 2, dtype=torch.uint8)}
    obs["b"][2, 0, 1, 1] = 1
    actions = torch.zeros(4, 3)
    assert find_padding(obs, actions, n_seq=1).padded.tolist() == [3]
    actions[3, 2] = 0.5
    assert find_padding(obs, actions, n_seq=1).padded.tolist() == []


@pytest.mark.parametrize("norm", BATCH_NORMS)
@pytest.mark.parametrize("family", SPACES)
def test_batch_norms_see_the_real_steps_alone(family, norm):
    policy = make(family, norm).train()
    by_hand = copy.deepcopy(policy)
    obs, actions, states, starts = minibatch(family)
    values, log_prob, _ = policy.evaluate_actions(obs, actions, states, starts)

    pick = {k: v[REAL] for k, v in obs.items()} if isinstance(obs, dict) else obs[REAL]
    features = by_hand.extract_features(pick).split(LENGTHS)
    latent_pi = torch.cat([by_hand.lstm_actor(part.unsqueeze(1))[0][:, 0] for part in features])
    latent_vf = torch.cat([by_hand.lstm_critic(part.unsqueeze(1))[0][:, 0] for part in features])
    logits = by_hand.action_net(by_hand.mlp_extractor.forward_actor(latent_pi))
    expected = logits.log_softmax(1).gather(1, actions[REAL].unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(log_prob[REAL], expected)
    expected = by_hand.value_net(by_hand.mlp_extractor.forward_critic(latent_vf))
    torch.testing.assert_close(values[REAL], expected)
    tracked = dict(policy.named_buffers())
    assert any("running_mean" in name for name in tracked)
    for name, expected in by_hand.named_buffers():
        torch.testing.assert_close(tracked[name], expected)


@pytest.mark.parametrize("norm", BATCH_NORMS)
def test_what_looks_like_padding_is_normalised_by_the_running_statistics(norm):
    policy = make("Mlp", norm).train()
    arguments = minibatch("Mlp")
    values, log_prob, _ = policy.evaluate_actions(*arguments)
    later, later_log_prob, _ = policy.eval().evaluate_actions(*arguments)
    torch.testing.assert_close(values[~REAL], later[~REAL])
    torch.testing.assert_close(log_prob[~REAL], later_log_prob[~REAL])
    assert not torch.allclose(values[REAL], later[REAL], atol=1e-3)


@pytest.mark.parametrize("norm", BATCH_NORMS)
@pytest.mark.parametrize("family", SPACES)
def test_in_evaluation_padding_changes_nothing(family, norm):
    policy = make(family, norm).eval()
    arguments = minibatch(family)
    expected = RecurrentActorCriticPolicy.evaluate_actions(policy, *arguments)
    for left, right in zip(policy.evaluate_actions(*arguments), expected, strict=True):
        torch.testing.assert_close(left, right)


class OwnEvaluation(RecurrentActorCriticPolicy):
    """A user's policy with an entropy of its own."""

    def evaluate_actions(self, *args):
        values, log_prob, _ = super().evaluate_actions(*args)
        return values, log_prob, torch.full_like(log_prob, 3.0)


def test_a_users_own_evaluation_is_called_under_every_norm():
    for norm in ("none", "batch"):
        policy = wn.with_norm(OwnEvaluation, norm)(
            VECTOR, spaces.Discrete(2), ConstantSchedule(1e-3), lstm_hidden_size=8, net_arch=[8]
        )
        assert (policy.evaluate_actions(*minibatch("Mlp"))[2] == 3.0).all()


@pytest.mark.parametrize("family", ["Cnn", "MultiInput"])
def test_features_of_padding_are_those_that_a_real_step_like_it_has(family):
    policy = make(family, "none", share_features_extractor=False)
    arguments = minibatch(family)
    expected = RecurrentActorCriticPolicy.evaluate_actions(policy, *arguments)
    actual = policy.evaluate_actions(*arguments)
    for left, right in zip(actual, expected, strict=True):
        torch.testing.assert_close(left, right)


def test_an_extractor_sees_the_real_steps_and_one_for_all_that_pads():
    policy = make("Cnn", "none")
    seen = []
    first = policy.features_extractor.cnn[0]
    first.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    obs, *others = minibatch("Cnn")
    policy.evaluate_actions(obs, *others)
    (frames,) = seen
    torch.testing.assert_close(frames[:-1], obs[REAL] / 255)
    assert frames.shape[0] == sum(LENGTHS) + 1
    assert not frames[-1].any()


@pytest.mark.parametrize("fails", [False, True])
def test_batch_norms_keep_their_mode_and_modules_have_no_hooks(fails):
    policy = make("Cnn", "batch").train()
    obs, actions, states, starts = minibatch("Cnn")
    if fails:
        with pytest.raises(RuntimeError):
            policy.evaluate_actions(obs, actions, states, starts[:-1])
    else:
        policy.evaluate_actions(obs, actions, states, starts)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in policy.modules())
    assert all(norm.training for norm in batch_norms(policy))
