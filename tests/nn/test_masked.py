import copy
import pickle

import pytest
import torch
from torch import nn

from wnrl import convert, data_init, fold
from wnrl.errors import UsageError
from wnrl.nn import plain_parts
from wnrl.nn.masked import MaskedLinear, WNMaskedLinear

MASK = torch.tensor([[1, 0, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 1, 1.0]])
BLOCKED = MASK == 0


def plain(**options):
    torch.manual_seed(0)
    return MaskedLinear(4, 5, MASK, **options)


def normed(**options):
    return WNMaskedLinear.from_plain(plain(), **options)


def test_masked_inputs_do_not_reach_their_outputs():
    for layer in (plain(), normed()):
        jacobian = torch.autograd.functional.jacobian(layer, torch.randn(4))
        assert (jacobian[BLOCKED] == 0).all()
        assert (jacobian[~BLOCKED] != 0).all()


def test_the_mask_comes_before_the_norm():
    layer, x = normed(), torch.randn(3, 4)
    with torch.no_grad():
        layer.weight_v.copy_(torch.randn(5, 4))  # masked entries too
        layer.weight_g.copy_(torch.rand(5, 1) + 0.5)
    v = layer.weight_v * MASK
    lengths = v.norm(dim=1, keepdim=True)
    w = torch.where(lengths > 0, layer.weight_g * v / lengths, 0.0)
    torch.testing.assert_close(layer(x), x @ w.T + layer.bias)


def test_conversion_keeps_the_function_and_folding_gives_it_back():
    x = torch.randn(6, 4)
    net = nn.Sequential(plain())
    expected = net(x)
    assert convert(net, "weight") == ["0"]
    assert type(net[0]) is WNMaskedLinear
    torch.testing.assert_close(net(x), expected)
    folded = fold(net)
    assert type(folded[0]) is MaskedLinear
    torch.testing.assert_close(folded(x), expected)
    assert torch.equal(folded[0].mask, MASK)


@pytest.mark.parametrize("make", [plain, normed])
def test_masked_weights_stay_zero_and_whole_rows_stay_silent_under_adam(make):
    layer = make()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    before = layer.weight.detach().clone()
    for _ in range(5):
        optimizer.zero_grad()
        (layer(torch.randn(8, 4)) - 1).square().mean().backward()
        assert all(p.grad.isfinite().all() for p in layer.parameters())
        optimizer.step()
    assert (layer.weight[BLOCKED] == 0).all()
    assert (layer.weight[~BLOCKED] != before[~BLOCKED]).all()


def test_a_row_without_inputs_gives_its_bias_and_gets_no_gradient():
    layer = normed()
    layer(torch.randn(8, 4)).sum().backward()
    assert (layer.weight_v.grad[2] == 0).all()
    assert layer.weight_g.grad[2] == 0
    assert layer.bias.grad[2] == 8


def test_a_dense_weight_is_masked_when_it_is_assigned():
    layer = normed()
    dense = torch.randn(5, 4)
    layer.weight = dense
    torch.testing.assert_close(layer.weight.detach().clone(), dense * MASK)


def test_fresh_parameters_are_masked_too():
    for layer in (plain(), normed()):
        layer.reset_parameters()
        assert (layer.weight[BLOCKED] == 0).all()
        assert layer.weight.any()


def test_data_init_standardises_and_says_which_units_have_no_input():
    x = 3 * torch.randn(200, 4) + 1
    for layer in (plain(), normed()):
        net = nn.Sequential(layer)
        report = data_init(net, x)
        t = net(x)
        assert report.initialised == ["0"]
        assert report.constant == {"0": [2]}
        torch.testing.assert_close(t.mean(0), torch.zeros(5), atol=1e-5, rtol=0)
        seen = [0, 1, 3, 4]
        torch.testing.assert_close(t.std(0, correction=0)[seen], torch.ones(4))
        jacobian = torch.autograd.functional.jacobian(layer, torch.randn(4))
        assert (jacobian[BLOCKED] == 0).all()


@pytest.mark.parametrize("make", [plain, normed])
def test_layer_survives_copies_pickles_states_and_types(make):
    layer, x = make(), torch.randn(3, 4)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), layer(x))
    fresh = make()
    fresh.reset_parameters()
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh(x), layer(x))
    assert "mask" not in layer.state_dict()
    torch.testing.assert_close(layer.double()(x.double()).float(), fresh(x))


def test_spectral_norm_leaves_it_plain_and_says_so():
    net = nn.Sequential(nn.Linear(4, 4), plain())
    convert(net, "spectral")
    assert type(net[1]) is MaskedLinear
    assert plain_parts(net, "spectral") == ["1"]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(4, 5), r"mask must have shape \(5, 4\), got \(4, 5\)"),
        (0.5 * torch.ones(5, 4), "mask must be of zeros and ones"),
    ],
)
def test_what_is_no_mask_is_refused(mask, message):
    with pytest.raises(UsageError, match=message):
        MaskedLinear(4, 5, mask)
