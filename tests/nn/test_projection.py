import copy
import pickle

import pytest
import torch
from torch import nn

from wnrl import convert
from wnrl.nn import MaskedLinear
from wnrl.nn.projection import project_


def length_of_rows(layer):
    if isinstance(layer, nn.ConvTranspose2d):
        by_group = layer.weight.unflatten(0, (layer.groups, -1))
        return by_group.square().sum([1, 3, 4]).sqrt().flatten()
    return layer.weight.flatten(1).norm(dim=1)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(5, 4), (3, 5)),
        (nn.Conv1d(4, 6, 3), (3, 4, 8)),
        (nn.Conv2d(4, 6, 3, groups=2), (3, 4, 8, 8)),
        (nn.ConvTranspose2d(4, 6, 3), (3, 4, 5, 5)),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), (3, 4, 5, 5)),
    ],
)
def test_each_hidden_row_is_on_the_sphere_and_keeps_its_direction(layer, shape):
    before = copy.deepcopy(layer)
    convert(nn.Sequential(layer, nn.ReLU()), "projected")
    lengths = length_of_rows(layer)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))
    assert torch.equal(layer.bias, before.bias)
    x = torch.randn(shape)
    layer.bias = before.bias = None
    scale = length_of_rows(before).view(-1, *[1] * (len(shape) - 2))
    torch.testing.assert_close(layer(x) * scale, before(x), atol=1e-5, rtol=1e-5)


def test_a_row_is_what_its_mask_lets_through():
    layer = MaskedLinear(3, 2, torch.tensor([[1, 0, 1], [0, 1, 1]]))
    nn.init.ones_(layer.weight)
    convert(nn.Sequential(layer, nn.ReLU(), nn.Linear(2, 1)), "projected")
    torch.testing.assert_close((layer.weight * layer.mask).norm(dim=1), torch.ones(2))


def test_output_layers_are_left_alone():
    head = nn.Linear(4, 2)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), head)
    before = head.weight.clone()
    convert(net, "projected")
    project_(net)
    assert torch.equal(head.weight, before)


def test_a_recurrent_layer_has_unit_rows_in_all_its_weights():
    net = nn.ModuleList([nn.LSTM(3, 5, num_layers=2), nn.GRUCell(3, 5)])
    assert convert(net, "projected") == ["0", "1"]
    for name, weight in net.named_parameters():
        if "weight" in name:
            torch.testing.assert_close(weight.norm(dim=1), torch.ones(len(weight)))


def test_the_mark_survives_copies():
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    convert(net, "projected")
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        with torch.no_grad():
            twin[0].weight.mul_(3)
        project_(twin)
        torch.testing.assert_close(twin[0].weight, net[0].weight)


def test_a_row_of_zeros_stays_one():
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
    with torch.no_grad():
        net[0].weight[1] = 0
    convert(net, "projected")
    assert net[0].weight.norm(dim=1).tolist() == pytest.approx([1, 0, 1, 1])


@pytest.mark.parametrize("size", [1e-41, 1e-30, 1e20])
def test_rows_of_any_size_come_to_the_sphere(size):
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
    with torch.no_grad():
        net[0].weight.mul_(size)
    directions = net[0].weight.detach().double()
    directions /= directions.norm(dim=1, keepdim=True)
    convert(net, "projected")
    torch.testing.assert_close(net[0].weight.double(), directions, atol=1e-6, rtol=1e-6)
