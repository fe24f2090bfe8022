import copy

import pytest
import torch
from torch import nn

from wnrl import NORMS, convert, fold
from wnrl.nn import data_init, plain_parts

NORMALISERS = [key for key, norm in NORMS.items() if norm.normalizers]
HIDDEN_ONLY = [key for key in NORMALISERS if nn.Linear not in NORMS[key].layers]


def nested():
    """Three hidden layers; the third has its nonlinearity at the start of the next Sequential."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Linear(6, 8), nn.ReLU()),
        nn.Sequential(nn.Sequential(), nn.Sequential(nn.Linear(8, 8), nn.Tanh())),
        nn.Sequential(nn.Linear(8, 8)),
        nn.Sequential(nn.ELU(), nn.Linear(8, 3)),
    )


def flat():
    leaves = [part for part in nested().modules() if not isinstance(part, nn.Sequential)]
    return nn.Sequential(*leaves)


LAYERS = ["0.0", "1.1.0", "2.0"]


@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("key", [*HIDDEN_ONLY, "projected"])
def test_hidden_layers_in_nested_sequentials_are_those_of_the_flat_one(key, placement):
    net, twin = nested(), flat()
    assert convert(net, key, placement=placement) == LAYERS
    assert convert(twin, key, placement=placement) == ["0", "2", "4"]
    x = torch.randn(16, 6)
    torch.testing.assert_close(net(x), twin(x), atol=0, rtol=0)
    assert plain_parts(net, key) == []


@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("key", [*NORMALISERS, "projected"])
def test_converting_nested_sequentials_again_changes_nothing(key, placement):
    net = nested()
    convert(net, key, placement=placement)
    before = copy.deepcopy(net.state_dict())
    assert convert(net, key, placement=placement) == []
    assert list(before) == list(net.state_dict())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_across_a_border_the_normaliser_stands_with_what_it_follows():
    before, after = nested(), nested()
    convert(before, "batch")
    convert(after, "batch", placement="post")
    assert isinstance(before[2][0].layer, nn.Linear)
    assert isinstance(after[3][0].layer, nn.ELU)
    assert type(after[2][0]) is nn.Linear


def test_the_keys_of_a_nested_network_are_those_that_convert_documents():
    net = nn.Sequential(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), nn.Linear(3, 1))
    convert(net, "mean")
    assert [name for name, _ in net.named_parameters()] == [
        *("0.0.layer.weight", "0.0.norm.bias"),
        *("1.weight", "1.bias"),
    ]
    convert(net, "weight")
    assert [name for name, _ in net.named_parameters()] == [
        *("0.0.layer.weight_g", "0.0.layer.weight_v", "0.0.norm.bias"),
        *("1.weight_g", "1.weight_v", "1.bias"),
    ]


@pytest.mark.filterwarnings("ignore:norm .* left .* as they were")
@pytest.mark.parametrize("placement", ["pre", "post"])
def test_skip_leaves_a_nested_part_alone_and_all_that_is_in_it(placement):
    net = nested()
    reached = {"pre": ["1.1.0", "2.0"], "post": ["1.1.0"]}
    assert convert(net, "batch", skip=("0", "3"), placement=placement) == reached[placement]
    assert type(net[3][0]) is nn.ELU


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


class Backwards(nn.Sequential):
    def forward(self, x):
        for child in reversed(self):
            x = child(x)
        return x


@pytest.mark.filterwarnings("ignore:norm .* left .* as they were")
@pytest.mark.parametrize("kind", [Residual, Backwards])
def test_what_follows_what_in_a_container_with_a_forward_of_its_own_is_not_known(kind):
    block = kind(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    net = nn.Sequential(nn.Linear(4, 8), block, nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
    assert convert(net, "layer") == ["3"]
    assert plain_parts(net, "layer") == ["0", "1.0", "1.2"]
    assert plain_parts(net, "layer", skip=("1",)) == ["0"]


def test_a_converted_network_can_be_sliced():
    net = nested()
    convert(net, "batch")
    assert net[:2](torch.randn(3, 6)).isfinite().all()
    assert len(net[2]) == len(nested()[2])


@pytest.mark.filterwarnings("ignore:norm .* left .* as they were")
def test_a_container_used_twice_is_followed_by_what_follows_it_in_both_places():
    both = nn.Sequential(nn.Linear(8, 8))
    assert convert(nn.Sequential(both, nn.ReLU(), both, nn.Tanh()), "layer") == ["0.0", "2.0"]
    once = nn.Sequential(nn.Linear(8, 8))
    assert convert(nn.Sequential(once, nn.ReLU(), once, nn.Linear(8, 8), nn.ReLU()), "layer") == [
        "3"
    ]


@pytest.mark.filterwarnings("ignore:norm .* left .* as they were")
def test_a_nonlinearity_shared_by_two_layers_has_no_room_for_a_normaliser_of_one():
    shared = nn.Sequential(nn.ReLU())
    parts = (nn.Linear(4, 8), shared, nn.Linear(8, 6), shared, nn.Linear(6, 5), nn.ReLU())
    net = nn.Sequential(*parts)
    assert convert(copy.deepcopy(net), "layer") == ["0", "2", "4"]
    assert convert(net, "layer", placement="post") == ["4"]
    assert net(torch.randn(3, 4)).shape == (3, 5)


@pytest.mark.parametrize("key", NORMALISERS)
def test_nested_networks_are_folded_and_initialised_from_data(key):
    net, x = nested(), torch.randn(64, 6)
    convert(net, key)
    report = data_init(net, x)
    assert report.initialised == [*LAYERS, "3.1"]
    net.eval()
    torch.testing.assert_close(fold(net)(x), net(x), atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:norm .* left .* as they were")
def test_weight_norm_with_a_mean_lists_layers_that_lack_the_mean():
    net = nn.ModuleDict(
        {
            "memory": nn.LSTM(6, 8),
            "body": nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.1), nn.ReLU(), nn.Linear(8, 2)),
            "mixed": nn.Bilinear(2, 2, 2),
            "reached": nested(),
        }
    )
    convert(net, "weight_mean")
    assert plain_parts(net, "weight_mean") == ["body.0", "body.3", "mixed"]
    assert plain_parts(net, "weight") == ["mixed"]
    assert plain_parts(net, "weight_mean", skip=("body",)) == ["mixed"]
