import torch
from torch import nn

from wnrl import convert
from wnrl.diagnostics import weight_lengths


def test_lengths_of_a_fresh_conversion_are_those_of_the_plain_rows():
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    rows = network[0].weight.norm(dim=1).mean().item()
    convert(network, "weight")
    lengths = weight_lengths(network)
    assert set(lengths) == {f"norm/{kind}/{i}.weight" for kind in "gv" for i in (0, 2)}
    assert abs(lengths["norm/g/0.weight"] - rows) < 1e-6
    assert abs(lengths["norm/v/0.weight"] - rows) < 1e-6


def test_lengths_of_a_layer_with_one_input_are_taken_unit_by_unit():
    network = nn.Sequential(nn.Linear(1, 5))
    mean = network[0].weight.detach().abs().mean().item()
    convert(network, "weight")
    assert abs(weight_lengths(network)["norm/v/0.weight"] - mean) < 1e-6


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
