import pytest
import torch
from torch import nn

from wnrl import NORMS, convert
from wnrl.errors import UsageError
from wnrl.networks import ACTIVATIONS, INITS, ConvSpec, cnn, fans, init_weights, mlp
from wnrl.nn.layers import MaskedLinear

VARIANCES = {
    "xavier": lambda k, out: 1 / k,
    "he": lambda k, out: 2 / k,
    "fan_sum": lambda k, out: 1 / (k + out),
    "torch": lambda k, out: 1 / (3 * k),
}


def test_the_words_are_those_that_flags_offer():
    assert " ".join(ACTIVATIONS) == "sigmoid tanh relu leaky_relu elu celu silu gelu"
    assert list(INITS) == ["torch", "xavier", "he", "fan_sum", "orthogonal"]


@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("norm", NORMS)
def test_networks_of_every_norm_map_the_shapes_they_say(norm, placement):
    net = mlp(5, (8, 6), 3, norm=norm, placement=placement)
    assert net(torch.randn(4, 5)).shape == (4, 3)
    image_net = cnn((3, 36, 40), 7, hidden=(16,), norm=norm, placement=placement)
    assert image_net(torch.randn(2, 3, 36, 40)).shape == (2, 7)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_each_activation_stands_behind_each_hidden_layer(activation):
    net = mlp(5, (8, 6), None, activation=activation)
    assert [type(layer) for layer in net] == [nn.Linear, ACTIVATIONS[activation]] * 2


@pytest.mark.parametrize("norm", ["none", "weight", "weight_mean", "batch"])
@pytest.mark.parametrize("init", VARIANCES)
def test_weights_have_the_variance_that_the_word_says(init, norm):
    torch.manual_seed(0)
    net = mlp(300, (200,), 150, init=init, norm=norm)
    for layer, (k, out) in zip((net[0], net[2]), ((300, 200), (200, 150)), strict=True):
        weight = getattr(layer, "layer", layer).weight
        assert weight.var().item() == pytest.approx(VARIANCES[init](k, out), rel=0.05)


def test_orthogonal_weights_have_orthonormal_rows():
    weight = mlp(30, (20,), 2, init="orthogonal")[0].weight
    torch.testing.assert_close(weight @ weight.T, torch.eye(20), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Linear(5, 7), (5, 7)),
        (nn.Conv2d(4, 6, 3), (36, 54)),
        (nn.Conv2d(4, 6, 3, groups=2), (18, 27)),
        (nn.ConvTranspose2d(4, 6, 3), (36, 54)),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), (18, 27)),
    ],
)
def test_fans_count_what_one_unit_adds_up(layer, expected):
    assert fans(layer) == expected
    net = nn.Sequential(layer)
    convert(net, "weight")
    assert fans(net[0]) == expected


def test_what_has_no_weight_has_no_fans():
    with pytest.raises(UsageError, match="must have a weight of two axes, got a ReLU"):
        fans(nn.ReLU())


def test_two_norms_start_from_the_same_draw_at_the_same_seed():
    torch.manual_seed(3)
    plain = mlp(5, (8,), 2, init="he")
    torch.manual_seed(3)
    normed = mlp(5, (8,), 2, init="he", norm="weight")
    x = torch.randn(4, 5)
    torch.testing.assert_close(plain(x), normed(x))


def test_a_converted_network_can_be_initialised_too():
    net = mlp(300, (200,), 2, norm="weight")
    init_weights(net, "he")
    assert net[0].compute_weight().var().item() == pytest.approx(2 / 300, rel=0.05)
    assert net[0].bias.abs().max() == 0


class Named(nn.Linear):
    pass


@pytest.mark.filterwarnings("ignore:norm .* left .* as they were")
def test_spectral_layers_and_subclasses_are_initialised_too():
    torch.manual_seed(0)
    net = nn.Sequential(Named(300, 200), nn.Linear(200, 100), nn.ConvTranspose1d(60, 70, 5))
    convert(net, "spectral")
    init_weights(net, "he")
    for layer, fan_in in zip(net, (300, 200, 300), strict=True):
        assert layer.weight.var().item() == pytest.approx(2 / fan_in, rel=0.05)
        assert layer.bias.abs().max() == 0
    weight = net[1].compute_weight()
    assert torch.linalg.matrix_norm(weight, 2).item() == pytest.approx(1, rel=1e-5)


def test_masked_weights_stay_zero():
    mask = torch.eye(4)
    net = nn.Sequential(MaskedLinear(4, 4, mask), nn.Linear(4, 4))
    init_weights(net, "he")
    assert torch.equal(net[0].weight != 0, mask == 1)


def test_a_layer_without_a_weight_yet_is_named():
    with pytest.raises(UsageError, match=r"^1 is lazy"):
        init_weights(nn.Sequential(nn.Linear(3, 4), nn.LazyLinear(2)), "he")


def test_batch_norm_takes_its_momentum_and_its_place():
    net = mlp(5, (8,), 2, norm="batch", placement="post", norm_kwargs={"momentum": 0.01})
    assert net[1].norm.momentum == 0.01
    assert isinstance(net[1].layer, nn.ReLU)


def test_the_default_convolutions_are_those_of_the_nature_paper():
    net = cnn((4, 84, 84), 6)
    assert net(torch.zeros(1, 4, 84, 84)).shape == (1, 6)
    assert sum(p.numel() for p in net.parameters()) == 1_687_206  # Mnih et al. (2015), 6 actions


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: mlp(5, (8,), 2, norm="wieght"), "did you mean 'weight'"),
        (lambda: mlp(5, (8,), 2, activation="ReLu"), "did you mean 'relu'"),
        (lambda: mlp(5, (8,), 2, init="xaver"), "did you mean 'xavier'"),
        (lambda: ConvSpec(0, 3), "channels must be above zero, got 0"),
        (lambda: ConvSpec(8, 3, stride=0), "stride must be above zero, got 0"),
        (lambda: mlp(5, (8, 0), 2), r"hidden\[1\] must be above zero, got 0"),
        (lambda: mlp(5, (), None), "no linear layer"),
        (lambda: cnn((3, 30, 30), 2), r"\(3, 30, 30\) is too small"),
        (lambda: cnn((3, 4, 4), 2, convs=(ConvSpec(8, 5),)), "too small"),
    ],
)
def test_what_makes_no_sense_is_refused(build, message):
    with pytest.raises(UsageError, match=message):
        build()
