import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.weight_norm import WeightNorm

from wnrl import convert, fold, load_weights, state_dict_as
from wnrl.errors import UsageError
from wnrl.nn import WNConvTranspose2d, WNLinear
from wnrl.nn.functional import EPS
from wnrl.nn.plain import LAYOUTS
from wnrl.optim import project_


def plain_net(seed=0):
    torch.manual_seed(seed)
    return nn.ModuleDict(
        {
            "conv": nn.Conv2d(2, 3, 3),
            "rnn": nn.LSTM(3, 4),
            "body": nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2, bias=False)),
        }
    )


def weight_names(net):
    for module in net.modules():
        if not isinstance(module, nn.BatchNorm1d):
            for name, _ in list(module.named_parameters(recurse=False)):
                if name.startswith("weight"):
                    yield module, name


def torch_net(layout, seed=0):
    """The plain network with torch's own weight norm, as other programs have it."""
    net = plain_net(seed)
    for module, name in list(weight_names(net)):
        if layout == "weight_norm":
            WeightNorm.apply(module, name, 0)  # the public function warns that it is deprecated
        elif layout == "parametrize":
            parametrizations.weight_norm(module, name)
    return net


def our_net(seed=0):
    net = plain_net(seed)
    convert(net, "weight")
    return net


def outputs(net):
    x = torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(3))
    net.eval()
    # The legacy hook recomputes weights in the layer's own forward, so each layer is called whole.
    features = net["conv"](x).mean((2, 3))
    return net["body"](net["rnn"](features)[0])


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_torch_wrote_loads_and_gives_the_same_function(layout):
    theirs, ours = torch_net(layout, seed=1), our_net()
    load_weights(ours, theirs.state_dict())
    torch.testing.assert_close(outputs(ours), outputs(theirs))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_we_write_is_what_torch_reads(layout):
    theirs, ours = torch_net(layout), our_net(seed=1)
    theirs.load_state_dict(state_dict_as(ours, layout))
    torch.testing.assert_close(outputs(theirs), outputs(ours))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_writing_and_loading_again_keeps_the_function(layout):
    source, target = our_net(seed=1), our_net()
    load_weights(target, state_dict_as(source, layout))
    torch.testing.assert_close(outputs(target), outputs(source))


def test_pairs_keep_the_length_of_v():
    source, target = our_net(seed=1), our_net()
    with torch.no_grad():
        source["body"][0].weight_v.mul_(7)
    for layout in ("weight_norm", "parametrize"):
        load_weights(target, state_dict_as(source, layout))
        assert torch.equal(target["body"][0].weight_v, source["body"][0].weight_v)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_loads_into_plain_layers(layout):
    source, target = our_net(seed=1), plain_net()
    load_weights(target, state_dict_as(source, layout))
    torch.testing.assert_close(outputs(target), outputs(source))


@pytest.mark.parametrize("dim", [0, 1, None])
def test_a_pair_normalised_along_another_axis_loads_by_its_effective_weight(dim):
    theirs = parametrizations.weight_norm(nn.ConvTranspose2d(2, 3, 3), dim=dim)
    ours = nn.Sequential(WNConvTranspose2d(2, 3, 3))
    with torch.no_grad():
        theirs.parametrizations.weight.original1.mul_(2)
    load_weights(ours, {f"0.{key}": value for key, value in theirs.state_dict().items()})
    torch.testing.assert_close(ours[0].compute_weight(), theirs.weight)


@pytest.mark.parametrize("layout", ["plain", "parametrize"])
def test_the_exponential_scale_is_written_as_a_length_and_read_as_one(layout):
    source, target = WNLinear(3, 2, scale="exp"), WNLinear(3, 2, scale="exp")
    state = state_dict_as(source, layout)
    load_weights(target, state)
    torch.testing.assert_close(target.compute_weight(), source.compute_weight())
    linear = WNLinear(3, 2)
    load_weights(linear, state)
    torch.testing.assert_close(linear.compute_weight(), source.compute_weight())


@pytest.mark.parametrize("scale", ["linear", "exp"])
def test_a_negative_length_loads_with_the_same_function(scale):
    theirs = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 4)))
    with torch.no_grad():
        theirs[0].parametrizations.weight.original0[1] *= -1
    ours = nn.Sequential(WNLinear(3, 4, scale=scale))
    load_weights(ours, theirs.state_dict())
    torch.testing.assert_close(ours[0].compute_weight(), theirs[0].weight)


@pytest.mark.parametrize("layout", ["plain", "parametrize"])
def test_a_row_of_length_zero_has_no_logarithm_and_is_an_error_that_names_it(layout):
    source = nn.Sequential(WNLinear(3, 4))
    with torch.no_grad():
        source[0].weight_g[2] = 0
    target = nn.Sequential(WNLinear(3, 4, scale="exp"))
    before = copy.deepcopy(target.state_dict())
    with pytest.raises(UsageError, match=r"0\.weight has rows of length zero \(the first: 2\)"):
        load_weights(target, state_dict_as(source, layout))
    assert all(torch.equal(before[key], value) for key, value in target.state_dict().items())


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_torchs_legacy_lengths_load_into_logarithms_where_the_layout_is_named():
    theirs = nn.Sequential(nn.Linear(3, 4))
    WeightNorm.apply(theirs[0], "weight", 0)
    ours = nn.Sequential(WNLinear(3, 4, scale="exp"))
    before = copy.deepcopy(ours.state_dict())
    with pytest.raises(
        UsageError, match=r"0\.weight_g is a length, or stands for one .*weight_norm"
    ):
        load_weights(ours, theirs.state_dict())
    assert all(torch.equal(before[key], value) for key, value in ours.state_dict().items())
    load_weights(ours, theirs.state_dict(), layout="weight_norm")
    x = torch.randn(2, 3)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_another_layout_than_the_named_one_is_refused(layout):
    state = state_dict_as(our_net(seed=1), layout)
    for named in LAYOUTS:
        if named == layout:
            load_weights(our_net(), state, layout=named)
        else:
            with pytest.raises(UsageError, match=r"lacks conv\."):
                load_weights(our_net(), state, layout=named)
    with pytest.raises(UsageError, match="layout must be one of plain, weight_norm, parametrize"):
        load_weights(our_net(), state, layout="torch")


@pytest.mark.parametrize(
    ("layer", "layout", "message"),
    [
        (WNConvTranspose2d(4, 6, 3, groups=2), "parametrize", "2 groups"),
        (WNLinear(3, 2), "torch", "plain, weight_norm, parametrize"),
    ],
)
def test_what_a_layout_cannot_say_is_an_error(layer, layout, message):
    with pytest.raises(UsageError, match=message):
        state_dict_as(nn.Sequential(layer), layout)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"body.0.weight": None}, r"lacks body\.0\.weight"),
        ({"body.0.bias": None}, r"lacks body\.0\.bias"),
        ({"head.weight": torch.ones(1)}, r"no place .* head\.weight"),
        (
            {"conv.weight": torch.ones(3, 2, 5, 5)},
            r"conv\.weight.* \(3, 2, 3, 3\), got \(3, 2, 5, 5\)",
        ),
        ({"body.0.bias": torch.ones(4)}, r"body\.0\.bias must have shape \(5,\), got \(4,\)"),
        (
            {
                "body.2.weight": None,
                "body.2.weight_v": torch.tensor([[1.0], [0.0]]).expand(2, 5),
                "body.2.weight_g": torch.ones(2, 1),
            },
            r"body\.2\.weight_v must have a direction .* 1 of 2 .* \(the first: 1\)",
        ),
    ],
)
def test_a_mismatch_names_the_key_and_changes_nothing(change, message):
    net, state = our_net(), plain_net(seed=1).state_dict()
    for key, value in change.items():
        if value is None:
            del state[key]
        else:
            state[key] = value
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(UsageError, match=message):
        load_weights(net, state)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


@pytest.mark.parametrize("shape", [(3, 3), (1, 1), (1,), (2,)])
def test_a_g_of_a_shape_that_fits_no_axis_is_an_error(shape):
    net = nn.Sequential(WNLinear(3, 2))
    state = {
        "0.weight_g": torch.ones(shape),
        "0.weight_v": torch.ones(2, 3),
        "0.bias": torch.ones(2),
    }
    with pytest.raises(UsageError, match=r"0\.weight: g of shape \("):
        load_weights(net, state)


def test_a_shared_layer_is_written_under_each_of_its_names():
    layer = WNLinear(3, 3)
    net = nn.Sequential(layer, nn.Tanh(), layer)
    state = state_dict_as(net)
    assert sorted(state) == ["0.bias", "0.weight", "2.bias", "2.weight"]
    load_weights(fold(net), state)


@pytest.mark.parametrize("change", [lambda net: None, lambda net: convert(net, "weight")])
def test_a_network_on_the_meta_device_is_refused_until_it_has_memory(change):
    state = plain_net(seed=1).state_dict()
    with torch.device("meta"):
        net = plain_net()
    change(net)
    with pytest.raises(UsageError, match=r"^conv\.weight(_g)? is on the meta device.*to_empty"):
        load_weights(net, state)
    net.to_empty(device="cpu")
    load_weights(net, state)
    expected = plain_net(seed=1)
    torch.testing.assert_close(outputs(net), outputs(expected))


def test_a_lazy_network_is_refused():
    with pytest.raises(UsageError, match=r"^0 is lazy"):
        load_weights(nn.Sequential(nn.LazyLinear(2)), nn.Sequential(nn.Linear(3, 2)).state_dict())


SHORT = [1e-18, 1e-12, 1e-6, 1e-3, 1e18]


def scaled(weight, length):
    """Give the first row of ``weight`` another length."""
    with torch.no_grad():
        weight[0] *= length / weight[0].norm()


def relative_error(got, wanted):
    rows = (got - wanted).flatten(1).norm(dim=1) / wanted.flatten(1).norm(dim=1)
    return rows.max().item()


@pytest.mark.parametrize("eps", [EPS, 1e-2])
@pytest.mark.parametrize("length", SHORT)
def test_rows_of_any_length_that_torch_wrote_load_as_torch_computes_them(length, eps):
    theirs = nn.Sequential(parametrizations.weight_norm(nn.Linear(5, 3)))
    scaled(theirs[0].parametrizations.weight.original1, length)
    state, wanted = theirs.state_dict(), theirs[0].weight.detach()
    for dtype in (torch.float32, torch.float64):
        ours = nn.Sequential(WNLinear(5, 3, eps=eps, dtype=dtype))
        load_weights(ours, state)
        assert relative_error(ours[0].compute_weight(), wanted) < 3e-7
    plain = nn.Sequential(nn.Linear(5, 3))
    load_weights(plain, state)
    assert relative_error(plain[0].weight, wanted) < 3e-7


@pytest.mark.parametrize("length", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rows_that_a_narrower_type_cannot_hold_load_as_torch_computes_them(length, dtype):
    theirs = nn.Sequential(parametrizations.weight_norm(nn.Linear(50, 3)))
    scaled(theirs[0].parametrizations.weight.original1, length)
    ours = nn.Sequential(WNLinear(50, 3, dtype=dtype))
    load_weights(ours, theirs.state_dict())
    got, wanted = ours[0].compute_weight().float(), theirs[0].weight.detach()
    assert relative_error(got, wanted) < 2 * torch.finfo(dtype).eps


def test_a_row_in_range_is_loaded_bit_for_bit():
    theirs = nn.Sequential(parametrizations.weight_norm(nn.Linear(5, 3)))
    scaled(theirs[0].parametrizations.weight.original1, 1e-6)
    ours = nn.Sequential(WNLinear(5, 3))
    load_weights(ours, theirs.state_dict())
    parametrization = theirs[0].parametrizations.weight
    assert torch.equal(ours[0].weight_g, parametrization.original0)
    assert torch.equal(ours[0].weight_v, parametrization.original1)


@pytest.mark.parametrize("layout", ["weight_norm", "parametrize"])
@pytest.mark.parametrize("options", [{}, {"eps": 1e-2}, {"eps": 1e-2, "scale": "exp"}])
@pytest.mark.parametrize("length", SHORT)
def test_rows_of_any_length_are_written_as_torch_computes_them(length, options, layout):
    ours = nn.Sequential(WNLinear(5, 3, **options))
    scaled(ours[0].weight_v, length)
    with torch.no_grad():
        ours[0].weight_g[0] = 2.0  # of a w that has digits
    state = state_dict_as(ours, layout)
    g, v = (state[f"0.{key.format('weight')}"] for key in LAYOUTS[layout])
    wanted = ours[0].compute_weight()
    assert relative_error(torch._weight_norm(v, g, 0), wanted) < 3e-7


@pytest.mark.parametrize("g_rate", [8, 3])
@pytest.mark.parametrize("scale", ["linear", "exp"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_rate_of_g_leaves_what_is_written_and_read_as_it_is(layout, scale, g_rate):
    options = {"g_rate": g_rate, "scale": scale}
    net, plain = plain_net(), plain_net()
    convert(net, "weight", norm_kwargs=options)
    torch.testing.assert_close(outputs(net), outputs(plain))
    state = state_dict_as(net, layout)
    load_weights(again := our_net(seed=1), state, layout)
    torch.testing.assert_close(outputs(again), outputs(plain))
    back = plain_net(seed=1)
    convert(back, "weight", norm_kwargs=options)
    load_weights(back, state, layout)
    torch.testing.assert_close(outputs(back), outputs(plain))


@pytest.mark.parametrize("options", [{"scale": "exp"}, {"g_rate": 8.0}, {"eps": 0.1}])
def test_a_state_says_what_its_g_and_v_stand_for(options, tmp_path):
    layers = WNLinear(3, 2, **options), WNLinear(3, 2, **options), WNLinear(3, 2), nn.Linear(3, 2)
    net, same, other, plain = map(nn.Sequential, layers)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    state, x = torch.load(tmp_path / "net.pt", weights_only=True), torch.randn(4, 3)
    same.load_state_dict(state)
    assert torch.equal(same(x), net(x))
    with pytest.raises(RuntimeError, match="0 is of a layer with"):
        other.load_state_dict(state)
    with pytest.raises(RuntimeError, match="0 is of a layer with"):
        net.load_state_dict(other.state_dict())
    for target in (other, plain):
        with pytest.raises(UsageError, match="0 is of a layer whose g is no length, or with an"):
            load_weights(target, state, "weight_norm")
        load_weights(target, state_dict_as(net, "weight_norm"))
        torch.testing.assert_close(target(x), net(x))


def test_a_g_that_may_be_a_length_or_a_part_of_one_is_refused():
    net = nn.Sequential(WNLinear(3, 2, g_rate=8))
    with pytest.raises(UsageError, match="g_rate=8 say: give layout='weight_norm'"):
        load_weights(net, net.state_dict())


class Counting(nn.Module):
    """A network with a state that is no tensor."""

    def __init__(self):
        super().__init__()
        self.layer, self.steps = nn.Linear(3, 2), 0

    def get_extra_state(self):
        return {"steps": self.steps}

    def set_extra_state(self, state):
        self.steps = state["steps"]


def test_a_state_that_is_no_tensor_is_loaded_as_it_is():
    theirs, ours = nn.Sequential(Counting()), nn.Sequential(Counting())
    theirs[0].steps = 7
    convert(ours)
    load_weights(ours, theirs.state_dict())
    assert ours[0].steps == 7
    assert torch.equal(ours[0].layer.compute_weight(), theirs[0].layer.weight)


@pytest.mark.parametrize("build", [plain_net, our_net])
def test_numpy_arrays_load_as_tensors_do(build):
    theirs, ours = plain_net(seed=1), build()
    load_weights(ours, {key: value.numpy() for key, value in theirs.state_dict().items()})
    assert torch.equal(outputs(ours), outputs(theirs))


@pytest.mark.parametrize(
    "change",
    [
        lambda array: array.astype(">f4"),
        lambda array: array[::-1].copy()[::-1],
        lambda array: np.asfortranarray(array),
    ],
)
def test_arrays_in_any_order_of_bytes_and_rows_load(change):
    theirs, ours = plain_net(seed=1), our_net()
    state = theirs.state_dict()
    load_weights(ours, {k: change(v.numpy()) if v.dim() else v for k, v in state.items()})
    assert torch.equal(outputs(ours), outputs(theirs))


@pytest.mark.parametrize("build", [plain_net, our_net])
@pytest.mark.parametrize(
    "value",
    [
        torch.ones(5, 4, dtype=torch.complex64),
        torch.ones(5, 4).to_sparse(),
        np.full((5, 4), "1"),
        np.full((5, 4), 1, dtype=object),
    ],
)
def test_a_weight_that_is_no_dense_real_tensor_is_named(build, value):
    state = {**plain_net().state_dict(), "body.0.weight": value}
    with pytest.raises(UsageError, match=r"^body\.0\.weight.* must be a dense tensor of numbers"):
        load_weights(build(), state)


def spectral(layer):
    parametrizations.spectral_norm(layer)


def pruned(layer):
    prune.l1_unstructured(layer, "weight", 2)


@pytest.mark.parametrize("build", [plain_net, our_net])
@pytest.mark.parametrize(
    ("change", "key"),
    [
        (spectral, r"parametrizations\.weight\.original"),
        (nn.utils.spectral_norm, "weight_orig"),
        (parametrizations.orthogonal, r"parametrizations\.weight\.original"),
        (pruned, "weight_orig"),
    ],
)
def test_what_else_torch_makes_of_a_weight_is_named_with_what_to_do(build, change, key):
    theirs = plain_net()
    change(theirs["body"][0])
    with pytest.raises(
        UsageError, match=rf"lacks body\.0\.weight.*it has .*body\.0\.{key}.*remove torch's"
    ):
        load_weights(build(), theirs.state_dict())


@pytest.mark.parametrize("build", [plain_net, our_net])
def test_a_state_under_other_names_is_shown(build):
    state = {f"module.{key}": value for key, value in plain_net().state_dict().items()}
    with pytest.raises(UsageError, match=r"lacks conv\..*it has module\.conv\.weight"):
        load_weights(build(), state)


def test_what_a_norm_computes_besides_the_weight_is_for_that_norm():
    theirs = plain_net()
    convert(theirs, "spectral")
    with pytest.raises(UsageError, match=r"no place .*running_u_weight.*wnrl\.fold"):
        load_weights(our_net(), theirs.state_dict())


def test_rows_of_a_projected_layer_are_as_they_were_loaded_until_the_next_step():
    plain = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    net = copy.deepcopy(plain)
    convert(net, "projected")
    own = net[0].weight.detach().clone()
    load_weights(net, plain.state_dict())
    assert torch.equal(net[0].weight, plain[0].weight)
    project_(net)
    torch.testing.assert_close(net[0].weight.detach(), own)


def test_what_is_no_tensor_is_named():
    with pytest.raises(
        UsageError,
        match=r"^0\.bias must be a dense tensor of numbers like torch.float32, got list$",
    ):
        load_weights(nn.Sequential(nn.Linear(1, 1)), {"0.weight": torch.ones(1, 1), "0.bias": [1]})


def test_a_pruned_layer_is_named_with_what_to_do():
    net = nn.Sequential(WNLinear(3, 2))
    prune.l1_unstructured(net[0], "weight_v", 2)
    message = r"^0 is pruned .*: remove that first"
    for function in (state_dict_as, lambda net: load_weights(net, {})):
        with pytest.raises(UsageError, match=message):
            function(net)


@pytest.mark.parametrize("norm", ["layer", "batch", "spectral", "rms"])
def test_the_state_of_a_plain_network_is_for_a_plain_network(norm):
    plain = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    net = copy.deepcopy(plain)
    convert(net, norm)
    with pytest.raises(UsageError, match=r"^state_dict lacks 0\..* plain network, before convert$"):
        load_weights(net, plain.state_dict())


def test_a_row_without_direction_is_neither_written_nor_computed():
    net = nn.Sequential(WNLinear(3, 2))
    with torch.no_grad():
        net[0].weight_v[1] = 0
    with pytest.raises(UsageError, match=r"^0\.weight_v must have a direction"):
        state_dict_as(net, "parametrize")
    state = {"0.weight_g": torch.ones(2, 1), "0.weight_v": net[0].weight_v, "0.bias": torch.ones(2)}
    with pytest.raises(UsageError, match=r"^0\.weight_v must have a direction"):
        load_weights(nn.Sequential(nn.Linear(3, 2)), state)
