"""A user's own norm, put into NORMS at run time, works in every family of policies."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from torch import nn

from tests.sb3.tasks import VECTOR, RandomTask, sample
from wnrl.norms import NORMS, Norm

ROLLOUT = {"n_steps": 8, "batch_size": 8}
REPLAY = {"learning_starts": 8, "batch_size": 8, "buffer_size": 100}
ALGORITHMS = {
    PPO: ROLLOUT,
    A2C: {"n_steps": 8},
    TRPO: ROLLOUT,
    MaskablePPO: ROLLOUT,
    RecurrentPPO: ROLLOUT,
    DQN: REPLAY,
    QRDQN: REPLAY,
    SAC: REPLAY,
    TD3: REPLAY,
    TQC: REPLAY,
    CrossQ: REPLAY,
}


class Centred(nn.Module):
    """Takes the mean of the batch away, and knows it in evaluation."""

    def __init__(self, features, momentum=0.1):
        super().__init__()
        self.momentum = momentum
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))

    def forward(self, x):
        mean = x.mean(0) if self.training else self.running_mean
        if self.training:
            self.running_mean.lerp_(mean.detach(), self.momentum)
        return x - mean + self.bias


class Halved(nn.Linear):
    """A reparametrisation: half of twice the weight."""

    @classmethod
    def from_plain(cls, plain, scale=2.0):
        layer = cls(plain.in_features, plain.out_features)
        layer.scale = scale
        with torch.no_grad():
            layer.weight.copy_(plain.weight * scale)
            layer.bias.copy_(plain.bias)
        return layer

    def forward(self, x):
        return nn.functional.linear(x, self.weight / self.scale, self.bias)


@pytest.fixture(params=["centred", "halved"])
def norm(request, monkeypatch):
    own = {
        "centred": Norm(
            "the mean of the batch taken away",
            batch_statistics=True,
            normalizers=(Centred,) * 4,
            options=("momentum",),
        ),
        "halved": Norm(
            "w = v/2", paired=True, layers={nn.Linear: Halved}, layer_options=("scale",)
        ),
    }
    monkeypatch.setitem(NORMS, request.param, own[request.param])
    return request.param


def make(algorithm, norm, **policy_kwargs):
    continuous = algorithm in (SAC, TD3, TQC, CrossQ)
    recurrent = algorithm is RecurrentPPO
    sizes = {"net_arch": [8, 8], **({"lstm_hidden_size": 8} if recurrent else {})}
    if algorithm is CrossQ and norm == "halved":
        sizes["batch_norm"] = True
    return algorithm(
        "WNMlpLstmPolicy" if recurrent else "WNMlpPolicy",
        RandomTask(action_space=spaces.Box(-1.0, 1.0, (2,)) if continuous else None),
        seed=0, device="cpu", policy_kwargs={"norm": norm, **sizes, **policy_kwargs},
        **ALGORITHMS[algorithm],
    )  # fmt: skip


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_norm_of_a_users_own_is_trained_saved_and_loaded(tmp_path, algorithm, norm):
    option = {"momentum": 0.3} if norm == "centred" else {"scale": 4.0}
    model = make(algorithm, norm, norm_kwargs=option).learn(32)
    kind = Centred if norm == "centred" else Halved
    own = [part for part in model.policy.modules() if isinstance(part, kind)]
    assert own
    assert all(getattr(part, key) == value for part in own for key, value in option.items())
    model.save(tmp_path / "model")
    again = algorithm.load(tmp_path / "model", device="cpu")
    obs = sample(VECTOR)
    actions = [each.predict(obs, deterministic=True)[0] for each in (model, again)]
    np.testing.assert_array_equal(*actions)


@pytest.mark.parametrize("norm", ["centred"], indirect=True)
@pytest.mark.parametrize("algorithm", [a for a in ALGORITHMS if a is not RecurrentPPO])
def test_a_normalizer_of_a_users_own_goes_with_data_init(algorithm, norm):
    policy = make(algorithm, norm, data_init=8).learn(32).policy
    assert policy.data_initialised
    assert all(p.isfinite().all() for p in policy.parameters())


@pytest.mark.parametrize("algorithm", [PPO, DQN, SAC, CrossQ])
def test_output_heads_take_a_users_reparametrisation_when_asked(algorithm, norm):
    for heads in (False, True):
        policy = make(algorithm, norm, norm_heads=heads).policy
        outputs = [policy.get_submodule(name) for name in (
            ("action_net", "value_net") if algorithm is PPO
            else ("q_net.q_net.4",) if algorithm is DQN
            else ("actor.mu",)
        )]  # fmt: skip
        expected = Halved if heads and norm == "halved" else nn.Linear
        assert all(type(layer) is expected for layer in outputs)


@pytest.mark.parametrize("algorithm", [SAC, TD3, TQC, CrossQ])
def test_statistics_of_a_users_norm_move_where_its_network_learns(algorithm, monkeypatch):
    monkeypatch.setitem(
        NORMS, "centred", Norm("centred", batch_statistics=True, normalizers=(Centred,) * 4)
    )
    policy = make(algorithm, "centred").learn(16).policy
    policy.set_training_mode(True)
    before = {k: v.clone() for k, v in policy.state_dict().items() if "running_" in k}
    obs, actions = torch.rand(8, 5), torch.rand(8, 2)
    with torch.no_grad():
        policy.critic(obs, actions)
    policy.critic(obs, actions.requires_grad_())
    assert all(torch.equal(policy.state_dict()[k], v) for k, v in before.items())
    policy.critic(obs, actions.detach())
    moved = {k for k, v in before.items() if not torch.equal(policy.state_dict()[k], v)}
    assert moved
    assert all(key.startswith("critic.") for key in moved)
