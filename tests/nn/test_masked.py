import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from wnrl import convert, data_init, fold, load_weights, state_dict_as
from wnrl.errors import UsageError
from wnrl.nn import plain_parts, shared_weights
from wnrl.nn.layers import MaskedLinear, WNMaskedLinear

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
    assert torch.equal(layer.state_dict()["mask"], MASK)
    torch.testing.assert_close(layer.double()(x.double()).float(), fresh(x))


def fill(layer):
    """What an initialiser and a write into v do: masked entries are not zero any more."""
    with torch.no_grad():
        for name, p in layer.named_parameters():
            if name in ("weight", "weight_v"):
                p.normal_()
    return layer


def test_an_initialiser_that_is_applied_and_a_state_that_is_loaded_leave_masked_weights_at_zero():
    net = nn.Sequential(plain())

    def initialise(module):
        if isinstance(module, nn.Linear):
            nn.init.orthogonal_(module.weight)

    assert net.apply(initialise) is net
    assert (net[0].weight[BLOCKED] == 0).all()
    assert net[0].weight.any()
    net.load_state_dict({**net.state_dict(), "0.weight": torch.ones(5, 4)})
    assert torch.equal(net[0].weight, MASK)


@pytest.mark.parametrize("layout", ["weight_norm", "parametrize"])
def test_what_torchs_weight_norm_reads_has_the_norm_of_the_open_entries(layout):
    layer = fill(normed())
    state = state_dict_as(layer, layout)
    matrices = [value for key, value in state.items() if value.dim() == 2 and key != "mask"]
    length, v = sorted(matrices, key=torch.numel)
    w = length * v / v.norm(dim=1, keepdim=True)
    torch.testing.assert_close(w * MASK, layer.weight.detach().clone())


@pytest.mark.parametrize("scale", ["linear", "exp"])
@pytest.mark.parametrize("layout", ["plain", "parametrize"])
def test_weights_of_a_plain_layer_load_whatever_its_masked_entries_are(layout, scale):
    torch.manual_seed(0)
    mask = MASK[[0, 1, 3, 4]]
    theirs = fill(MaskedLinear(4, 4, mask))
    x = torch.randn(3, 4)
    expected = theirs(x)
    if layout == "parametrize":
        parametrizations.weight_norm(theirs)
    ours = WNMaskedLinear(4, 4, mask, scale=scale)
    load_weights(ours, theirs.state_dict())
    torch.testing.assert_close(ours(x), expected)


def test_the_papers_start_leaves_masked_entries_and_rows_without_inputs_at_zero():
    layer = WNMaskedLinear(4, 5, MASK, v_init_std=0.05)
    for _ in range(2):
        alive = MASK.any(1)
        assert (layer.weight_v[alive] * (1 - MASK[alive]) == 0).all()
        assert torch.equal(layer.weight_g, alive[:, None].float())
        layer.reset_parameters()


def test_a_row_whose_open_directions_are_zero_is_refused():
    layer = normed()
    state = layer.state_dict()
    state["weight_v"] = 1 - MASK
    with pytest.raises(UsageError, match=r"weight_v must have a direction .* first: 0"):
        layer.load_state_dict(state)
    with pytest.raises(UsageError, match="weight_v must have a direction"):
        layer.weight_v = nn.Parameter(1 - MASK)


@pytest.mark.parametrize("grad", [False, True])
def test_a_new_mask_is_seen_inside_a_scope(grad):
    layer, x = normed(), torch.randn(3, 4)
    with shared_weights(layer), torch.set_grad_enabled(grad):
        before = layer(x)
        assert torch.equal(layer(x), before)
        layer.mask.copy_(MASK.flip(1))
        assert not torch.equal(layer(x), before)
        assert torch.equal(layer(x), copy.deepcopy(layer)(x))


@pytest.mark.parametrize("kind", [MaskedLinear, WNMaskedLinear])
def test_a_layer_without_values_gets_them_and_the_mask_from_a_state(kind):
    source = kind(4, 5, MASK)
    x = torch.randn(3, 4)
    empty = torch.nn.utils.skip_init(kind, 4, 5, torch.ones(5, 4))
    on_meta = kind(4, 5, torch.ones(5, 4), device="meta")
    empty.load_state_dict(source.state_dict())
    on_meta.load_state_dict(source.state_dict(), assign=True)
    assert torch.equal(empty(x), source(x))
    assert torch.equal(on_meta(x), source(x))


@pytest.mark.filterwarnings("ignore:norm .* left .* as they were")
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
