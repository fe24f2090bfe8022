import warnings

import gymnasium as gym
import pytest
import torch
from sb3_contrib import CrossQ
from sb3_contrib.common.torch_layers import BatchRenorm1d as StockBatchRenorm
from torch import nn

from wnrl import NORMS, WNLinear
from wnrl.errors import UsageError
from wnrl.nn import BatchRenorm
from wnrl.sb3.common import use_fused
from wnrl.sb3.parts import batch_norms

SMALL = {"pi": [8], "qf": [16, 16]}


def make(alias="WNMlpPolicy", *, gradient_steps=1, learning_rate=1e-3, **policy_kwargs):
    return CrossQ(
        alias, "Pendulum-v1", learning_starts=16, batch_size=16, buffer_size=500, seed=0,
        gradient_steps=gradient_steps, learning_rate=learning_rate, device="cpu",
        policy_kwargs={"net_arch": SMALL, **policy_kwargs},
    )  # fmt: skip


@pytest.mark.parametrize("arguments", [{}, {"norm": "none"}, {"norm": "spectral"}])
def test_a_policy_that_has_no_normalizer_by_default_says_what_has_one(arguments):
    with pytest.warns(UserWarning, match=r"learns late.*'projected'.*tau=0\.005"):
        make(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [{"batch_norm": False}, {"batch_norm": True}, {"norm": "projected"}, {"norm": "layer"}],
)
def test_nothing_is_said_of_a_normalizer_that_is_there_or_not_wanted(arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(**arguments)


def outputs(model):
    model.policy.set_training_mode(False)
    obs = torch.linspace(-1, 1, 24).reshape(8, 3)
    actions = torch.linspace(-1, 1, 8).reshape(8, 1)
    with torch.no_grad():
        values = model.critic(obs, actions)
        return torch.cat([model.actor(obs, deterministic=True), *values], dim=1)


@pytest.mark.parametrize(
    ("norm", "batch_norm"),
    [("batch_renorm", True), ("none", False), ("weight", False), ("batch", True)],
)
def test_networks_start_as_the_function_of_stock_at_the_same_seed(norm, batch_norm):
    stock = make("MlpPolicy", batch_norm=batch_norm)
    torch.testing.assert_close(outputs(make(norm=norm)), outputs(stock), rtol=1e-5, atol=1e-6)


def test_without_normalizer_training_is_that_of_stock_without_batch_norm():
    stock = make("MlpPolicy", batch_norm=False)
    for network in (stock.policy.actor, stock.policy.critic):
        use_fused(network.optimizer)  # as ours
    expected = outputs(stock.learn(40))
    assert torch.equal(outputs(make(norm="none").learn(40)), expected)


@pytest.mark.parametrize(("warmup", "tolerance"), [(100_000, 1e-5), (10, 0.02)])
def test_batch_renorm_trains_as_stock_with_the_variance_of_the_population(
    monkeypatch, warmup, tolerance
):
    # SGD, since Adam makes a step of the learning rate of a gradient that is a rounding error.
    # After the warm-up, eps stands inside of r in ours and outside in stock's.
    options = {"renorm_warmup_steps": warmup, "optimizer_class": torch.optim.SGD}
    ours = make(norm="batch_renorm", learning_rate=3e-4, **options)
    start = outputs(ours)
    ours.learn(116)
    unbiased = torch.Tensor.var
    monkeypatch.setattr(torch.Tensor, "var", lambda x, dim: unbiased(x, dim, correction=0))
    stock = make("MlpPolicy", learning_rate=3e-4, **options).learn(116)
    assert (outputs(ours) - start).abs().max() > 0.3
    torch.testing.assert_close(outputs(ours), outputs(stock), rtol=0, atol=tolerance)
    stock_norms = [m for m in stock.critic.modules() if isinstance(m, StockBatchRenorm)]
    for ours_norm, stock_norm in zip(batch_norms(ours.critic), stock_norms, strict=True):
        assert ours_norm.running_steps == stock_norm.steps == 100
        torch.testing.assert_close(
            ours_norm.running_mean, stock_norm.ra_mean, rtol=0, atol=tolerance
        )


def test_a_feature_that_is_constant_on_a_batch_has_no_gradient_where_that_of_stock_is_nan():
    gradients = []
    for alias, norm in (("WNMlpPolicy", {"norm": "batch_renorm"}), ("MlpPolicy", {})):
        policy = make(alias, renorm_warmup_steps=0, **norm).policy
        layer = policy.critic.qf0[0]
        layer.train()
        x = torch.randn(8, 4)
        x[:, 0] = 0.5
        for _ in range(3):
            layer(x)
        x.requires_grad_()
        layer(x).square().sum().backward()
        gradients.append(x.grad[:, 0])
    assert torch.equal(gradients[0], torch.zeros(8))
    assert gradients[1].isnan().all()


@pytest.mark.parametrize("norm", [key for key, choice in NORMS.items() if choice.normalizers])
def test_normalizers_stand_in_the_places_of_stock(norm):
    stock, ours = make("MlpPolicy").policy, make(norm=norm).policy
    for name, module in stock.named_modules():
        if isinstance(module, StockBatchRenorm):
            first = name.endswith(".0") and norm in ("layer", "rms")
            expected = nn.Identity if first else NORMS[norm].normalizers[0]
            assert type(ours.get_submodule(name)) is expected, name


@pytest.mark.parametrize("norm", ["none", "weight", "spectral"])
def test_norms_without_a_normalizer_have_none(norm):
    policy = make(norm=norm).policy
    assert batch_norms(policy) == []
    names = [type(part).__name__ for part in policy.critic.qf0]
    assert names[1::2] == ["ReLU", "ReLU"]
    assert len(names) == 5


def test_projected_keeps_batch_renorm_unless_told_otherwise():
    assert all(type(norm) is BatchRenorm for norm in batch_norms(make(norm="projected").policy))
    assert len(batch_norms(make(norm="projected").policy)) == 8
    assert batch_norms(make(norm="projected", batch_norm=False).policy) == []


def test_batch_renorm_can_stand_beside_weight_norm():
    policy = make(norm="weight", batch_norm=True).policy
    assert isinstance(policy.critic.qf0[0], BatchRenorm)
    assert isinstance(policy.critic.qf0[1], WNLinear)


@pytest.mark.parametrize("gradient_steps", [1, 5, 20])
def test_projected_rows_hold_at_every_ratio_of_updates_to_data(gradient_steps):
    model = make(
        norm="projected", gradient_steps=gradient_steps, optimizer_class=torch.optim.AdamW
    ).learn(24)
    assert model._n_updates == 8 * gradient_steps
    policy = model.policy
    for layer in (policy.actor.latent_pi[1], policy.critic.qf0[1], policy.critic.qf1[4]):
        torch.testing.assert_close(layer.weight.norm(dim=1), torch.ones(len(layer.weight)))
    assert {int(norm.running_steps) for norm in batch_norms(policy.critic)} == {model._n_updates}
    assert outputs(model).isfinite().all()


@pytest.mark.parametrize("norm_heads", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_heads_take_reparametrisations_alone_and_only_when_asked(norm, norm_heads):
    policy = make(norm=norm, norm_heads=norm_heads).policy
    possible = norm in ("weight", "weight_mean", "spectral")
    last = 7 if norm == "weight_mean" else 4
    heads = ["actor.mu", "actor.log_std", f"critic.qf0.{last}", f"critic.qf1.{last}"]
    assert policy.plain_parts == (heads if possible and not norm_heads else [])


def test_arguments_of_stock_are_the_defaults_of_batch_norms_and_norm_kwargs_come_first():
    stock = {"batch_norm_momentum": 0.2, "batch_norm_eps": 0.3, "renorm_warmup_steps": 40}
    norm = make(norm="batch_renorm", **stock, norm_kwargs={"eps": 0.1}).policy.critic.qf0[0]
    assert (norm.momentum, norm.eps, norm.warmup_steps) == (0.2, 0.1, 40)
    assert (norm.r_steps, norm.d_steps) == (41, 41)
    norm = make(norm="batch", **stock).policy.critic.qf0[0]
    assert (norm.momentum, norm.eps) == (0.2, 0.3)
    assert make(norm="mean", **stock).policy.critic.qf0[0].momentum == 0.2
    assert make(norm="layer", **stock).policy.critic.qf0[3].eps == nn.LayerNorm(1).eps


@pytest.mark.parametrize("norm", ["batch", "batch_renorm", "mean"])
def test_data_init_standardises_layers_behind_statistics_of_the_same_observations(norm):
    policy = make(norm=norm, data_init=64).policy
    policy._init_hidden(3 + 2 * torch.randn(64, 3))
    for norm_layer in batch_norms(policy.critic.qf0):
        assert norm_layer.running_mean.abs().max() > 0
    policy.set_training_mode(False)
    pre_activations = {}
    net = policy.actor.latent_pi
    net[1].register_forward_hook(lambda _, args, out: pre_activations.update(actor=out))
    torch.manual_seed(1)
    net(3 + 2 * torch.randn(4000, 3))
    assert pre_activations["actor"].mean().abs() < 0.2
    assert (pre_activations["actor"].std() - 1).abs() < 0.2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm": "batch", "batch_norm": False}, "batch_norm=False contradicts norm 'batch'"),
        ({"norm": "none", "batch_norm": True}, "batch_norm=True contradicts norm 'none'"),
        ({"norm": "weight", "norm_kwargs": {"r_max": 2}}, "norm_kwargs for 'weight' may hold"),
        ({"norm": "batch", "norm_kwargs": {"r_max": 2}}, "norm_kwargs for 'batch' may hold"),
    ],
)
def test_contradictions_are_refused_with_the_reason(arguments, message):
    with pytest.raises(UsageError, match=message):
        make(**arguments)


def test_own_features_extractors_take_the_norm_as_elsewhere():
    env = gym.make("Pendulum-v1")
    policy = make(norm="batch", features_extractor_class=OwnExtractor).policy
    features = policy.critic.features_extractor(torch.zeros(2, *env.observation_space.shape))
    assert features.shape == (2, 4)
    assert len(batch_norms(policy.critic.features_extractor)) == 1
    assert len(batch_norms(policy.critic.qf0)) == 3


class OwnExtractor(nn.Module):
    def __init__(self, observation_space):
        super().__init__()
        self.features_dim = 4
        self.net = nn.Sequential(nn.Linear(observation_space.shape[0], 4), nn.Tanh())

    def forward(self, obs):
        return self.net(obs)
