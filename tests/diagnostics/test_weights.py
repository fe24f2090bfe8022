import copy
import math

import pytest
import torch
from torch import nn

from wnrl import convert, diagnostics
from wnrl.diagnostics import effective_weights, relative_change, to_floats
from wnrl.errors import UsageError
from wnrl.nn import MaskedLinear, WNConvTranspose2d, WNLinear


def weight_lengths(network):
    return to_floats(diagnostics.weight_lengths(network))


def test_lengths_of_a_fresh_conversion_are_those_of_the_plain_rows():
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    rows = network[0].weight.norm(dim=1).mean().item()
    convert(network, "weight")
    lengths = weight_lengths(network)
    assert set(lengths) == {f"norm/{kind}/{i}.weight" for kind in "gv" for i in (0, 2)}
    assert abs(lengths["norm/g/0.weight"] - rows) < 1e-6
    assert abs(lengths["norm/v/0.weight"] - rows) < 1e-6


def test_the_effective_weight_of_a_masked_layer_is_under_its_mask():
    mask = torch.tensor([[1.0, 0, 1], [0, 1, 1]])
    layer = MaskedLinear(3, 2, mask)
    nn.init.ones_(layer.weight)
    assert torch.equal(effective_weights(nn.Sequential(layer))["0.weight"], mask)


def test_lengths_of_a_layer_with_one_input_are_taken_unit_by_unit():
    network = nn.Sequential(nn.Linear(1, 5))
    mean = network[0].weight.detach().abs().mean().item()
    convert(network, "weight")
    assert abs(weight_lengths(network)["norm/v/0.weight"] - mean) < 1e-6


def test_lengths_of_a_grouped_transposed_convolution_are_those_of_its_output_channels():
    layer = WNConvTranspose2d(4, 6, 3, groups=2)
    blocks = layer.weight_v.detach().unflatten(0, (2, 2))  # (groups, in, out, 3, 3)
    by_hand = blocks.square().sum(dim=(1, 3, 4)).sqrt().mean().item()
    lengths = weight_lengths(nn.Sequential(layer))
    assert lengths["norm/v/0.weight"] == pytest.approx(by_hand)
    assert lengths["norm/g/0.weight"] == pytest.approx(by_hand)


def test_the_length_of_an_exponential_scale_is_the_length_and_not_its_logarithm():
    layer = WNLinear(3, 4, scale="exp")
    by_hand = layer.weight.detach().norm(dim=1).mean().item()
    assert weight_lengths(layer)["norm/g/weight"] == pytest.approx(by_hand)


def test_growing_v_alone_changes_its_length_and_not_g():
    network = nn.Sequential(nn.Linear(3, 4))
    convert(network, "weight")
    before = weight_lengths(network)
    with torch.no_grad():
        network[0].weight_v.mul_(3)
    after = weight_lengths(network)
    assert after["norm/g/0.weight"] == before["norm/g/0.weight"]
    assert abs(after["norm/v/0.weight"] - 3 * before["norm/v/0.weight"]) < 1e-6


def test_plain_network_has_no_lengths():
    assert weight_lengths(nn.Sequential(nn.Linear(3, 4))) == {}


@pytest.mark.parametrize("norm", ["weight", "layer", "batch", "weight_mean", "projected"])
def test_weights_have_the_names_of_the_plain_network_under_every_norm(norm):
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    plain = effective_weights(network)
    convert(network, norm, skip=["2"])
    assert effective_weights(network).keys() == plain.keys() == {"0.weight", "2.weight"}


def test_names_stay_plain_inside_of_nested_containers():
    network = nn.ModuleDict({"pi": nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))})
    convert(network, "weight_mean")
    assert "norm/g/pi.0.weight" in weight_lengths(network)


@pytest.mark.parametrize("norm", ["none", "weight", "spectral"])
def test_effective_weights_are_what_the_layer_multiplies_with(norm):
    network = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Tanh())
    convert(network, norm)
    assert torch.allclose(
        effective_weights(network)["0.weight"], network[0](torch.eye(3)).T, atol=1e-6
    )


@pytest.mark.parametrize("transposed", [nn.ConvTranspose2d, nn.Conv2d])
def test_effective_weights_of_spectral_norm_leave_its_vectors_alone(transposed):
    network = nn.Sequential(transposed(3, 5, 2), nn.Tanh())
    convert(network, "spectral")
    kept = copy.deepcopy(network.state_dict())
    weight = effective_weights(network)["0.weight"]
    units = 1 if transposed is nn.ConvTranspose2d else 0
    matrix = weight.movedim(units, 0).flatten(1)
    assert torch.linalg.matrix_norm(matrix, 2).item() == pytest.approx(1.0, abs=1e-5)
    assert all(torch.equal(kept[name], value) for name, value in network.state_dict().items())


def test_effective_weights_are_copies():
    network = nn.Sequential(nn.Linear(2, 2))
    before = effective_weights(network)["0.weight"].clone()
    kept = effective_weights(network)
    with torch.no_grad():
        network[0].weight.add_(1)
    assert torch.equal(kept["0.weight"], before)


def test_all_matrices_of_an_lstm_are_listed_and_no_bias_is():
    names = effective_weights(nn.ModuleDict({"lstm": nn.LSTM(2, 3)}))
    assert names.keys() == {"lstm.weight_ih_l0", "lstm.weight_hh_l0"}


def test_relative_change_is_the_ratio_of_the_two_lengths():
    before = {"w": torch.tensor([[3.0, 4.0]])}
    after = {"w": torch.tensor([[3.0, 6.0]])}
    assert relative_change(before, after)["w"].item() == pytest.approx(2 / 5)


def test_relative_change_of_zero_is_zero_or_infinite():
    zero, one = {"w": torch.zeros(2, 2)}, {"w": torch.ones(2, 2)}
    assert relative_change(zero, zero)["w"].item() == 0.0
    assert relative_change(zero, one)["w"].item() == math.inf


def test_relative_change_refuses_other_weights():
    with pytest.raises(UsageError, match="must hold the same weights"):
        relative_change({"w": torch.ones(2, 2)}, {"v": torch.ones(2, 2)})
    with pytest.raises(UsageError, match="must hold the same weights"):
        relative_change({"w": torch.ones(2, 2)}, {"w": torch.ones(1, 2)})
