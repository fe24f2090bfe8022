import copy
import pickle
from collections import OrderedDict, deque
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from wnrl import NORMS, convert, data_init, fold
from wnrl.errors import UsageError
from wnrl.nn import WNLinear, plain_parts
from wnrl.nn.normalizers import Normalized

NORMALISERS = [key for key, norm in NORMS.items() if norm.normalizers]
BIAS_REMOVERS = [key for key, norm in NORMS.items() if norm.absorbs_bias]
KEYS = [
    *["none", "weight", "weight_mean", "mean", "projected"],
    *["batch", "batch_renorm", "layer", "rms", "spectral"],
]


def conv_net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 16), nn.Tanh(), nn.Linear(16, 2)
    )


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ELU(), nn.Linear(8, 8), nn.ELU(), nn.Linear(8, 3))


def images():
    return torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_the_table_has_the_ten_words_of_every_flag():
    assert list(NORMS) == KEYS
    assert all(norm.meaning for norm in NORMS.values())


@pytest.mark.parametrize("key", [key for key in KEYS if NORMS[key].paired])
def test_a_paired_norm_leaves_the_function_as_it_was(key):
    net = conv_net()
    convert(net, key)
    torch.testing.assert_close(net(images()), conv_net()(images()), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("key", [key for key in KEYS if not NORMS[key].paired])
def test_a_norm_that_is_not_called_paired_changes_the_function(key):
    net = conv_net()
    convert(net, key)
    assert (net(images()) - conv_net()(images())).abs().max() > 1e-3


@pytest.mark.parametrize("key", KEYS)
def test_reset_parameters_leaves_nothing_of_what_was_trained(key):
    nets = []
    for trained in (0.5, 2.0):
        net = nn.ModuleList([conv_net(), nn.LSTM(2, 3)])
        convert(net, key)
        with torch.no_grad():
            for value in net.state_dict().values():
                value.fill_(trained)
        torch.manual_seed(3)
        for part in net.modules():
            if part._parameters:
                part.reset_parameters()
        nets.append(net)
    assert all(map(torch.equal, *(net.state_dict().values() for net in nets)))


@pytest.mark.parametrize("key", KEYS)
def test_what_is_made_of_shared_parameters_is_shared_with_other_processes_too(key):
    net = nn.ModuleList([conv_net(), nn.LSTM(2, 3)]).share_memory()
    convert(net, key)
    assert [name for name, value in net.state_dict().items() if not value.is_shared()] == []
    net = nn.ModuleList([conv_net(), nn.LSTM(2, 3)])
    convert(net, key)
    assert [name for name, value in net.state_dict().items() if value.is_shared()] == []


@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("key", KEYS)
def test_converting_again_changes_nothing(key, placement):
    net = conv_net()
    first = convert(net, key, placement=placement)
    before = copy.deepcopy(net.state_dict())
    assert convert(net, key, placement=placement) == []
    assert bool(first) == (key != "none")
    after = net.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in after)


@pytest.mark.parametrize("key", KEYS)
def test_reparametrisations_take_every_layer_and_the_others_hidden_ones(key):
    everywhere = nn.Linear in NORMS[key].layers
    expected = {"none": []}.get(key, ["0", "3", "5"] if everywhere else ["0", "3"])
    net = conv_net()
    assert convert(net, key) == expected
    assert plain_parts(net, key) == []


@pytest.mark.parametrize("key", NORMALISERS)
def test_placement_puts_the_normaliser_before_or_after_the_nonlinearity(key):
    before, after = mlp(), mlp()
    convert(before, key, placement="pre")
    convert(after, key, placement="post")
    assert [type(child) for child in before] == [
        Normalized,
        nn.ELU,
        Normalized,
        nn.ELU,
        type(before[4]),
    ]
    assert isinstance(after[1], Normalized)
    assert isinstance(after[1].layer, nn.ELU)
    assert after[0].bias is not None


@pytest.mark.parametrize("key", BIAS_REMOVERS)
def test_the_bias_that_a_normaliser_removes_becomes_its_own(key):
    net, plain = mlp(), mlp()
    convert(net, key)
    assert net[0].layer.bias is None
    assert torch.equal(net[0].norm.bias, plain[0].bias)


@pytest.mark.parametrize("key", KEYS)
def test_every_parameter_of_a_converted_network_gets_a_gradient(key):
    net = conv_net()
    convert(net, key)
    net(images()).square().sum().backward()
    gradients = {name: p.grad for name, p in net.named_parameters()}
    assert all(g is not None and g.abs().max() > 1e-9 for g in gradients.values())


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("state", ["fresh", "after a step", "after evaluation"])
def test_deepcopy_and_pickle_keep_the_function(key, state):
    net = conv_net()
    convert(net, key)
    if state == "after a step":
        net(images()).sum().backward()
    net.eval()
    if state == "after evaluation":
        with torch.no_grad():
            net(images())
    expected = net(images())
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        torch.testing.assert_close(twin(images()), expected, atol=0, rtol=0)
        assert convert(twin, key) == []


@pytest.mark.parametrize("key", KEYS)
def test_folding_keeps_the_function_and_the_original(key):
    net = conv_net()
    convert(net, key)
    net(images())
    net.eval()
    folded = fold(net)
    torch.testing.assert_close(folded(images()), net(images()), atol=1e-5, rtol=1e-5)
    assert not folded.training
    weighted = [m for m in folded.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    assert {type(layer) for layer in weighted} == {nn.Linear, nn.Conv2d}
    assert len(weighted) == 3
    assert not {id(p) for p in folded.parameters()} & {id(p) for p in net.parameters()}


@pytest.mark.parametrize("key", [key for key in KEYS if NORMS[key].layers])
def test_a_layer_used_twice_is_one_layer_after_conversion_and_after_folding(key):
    shared = nn.Linear(8, 8)
    net = nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh(), nn.Linear(8, 2))
    convert(net, key)
    assert net[0] is net[2]
    folded = fold(net)
    assert folded[0] is folded[2]


@pytest.mark.filterwarnings("ignore:norm .* left .* as they were")
def test_a_layer_that_is_hidden_in_one_place_and_a_head_in_another_gets_no_normaliser():
    shared = nn.Linear(8, 8)
    net = nn.Sequential(shared, nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), shared)
    assert convert(net, "batch") == ["2"]


def test_skip_takes_names_and_prefixes():
    net = nn.ModuleDict({"a": mlp(), "b": mlp()})
    assert convert(net, "weight", skip=("a", "b.4")) == ["b.0", "b.2"]
    assert all(isinstance(layer, nn.Linear) for layer in (net["a"][0], net["b"][4]))


def test_skip_may_be_an_iterator():
    net = mlp()
    assert convert(net, "weight", skip=(name for name in ("4",))) == ["0", "2"]
    assert plain_parts(net, "weight", skip=iter(("4",))) == []
    before = net[4].weight.clone()
    data_init(net, torch.randn(16, 6), skip=iter(("4",)))
    assert torch.equal(net[4].weight, before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm": "weigth"}, "did you mean 'weight'"),
        ({"placement": "before"}, "pre, post"),
        ({"skip": ("4", "head")}, "'head'"),
        ({"skip": "head"}, "collection"),
        ({"norm": "batch", "norm_kwargs": {"momentun": 0.1}}, "momentum, eps"),
        ({"norm": "batch", "norm_kwargs": {"momentum": "x"}}, "momentum must be a number or None"),
        ({"norm": "weight", "norm_kwargs": {"eps": "x"}}, "eps must be a number, got 'x'"),
    ],
)
def test_a_word_that_does_not_exist_is_refused_and_nothing_is_converted(arguments, message):
    net = mlp()
    with pytest.raises(UsageError, match=message):
        convert(net, **arguments)
    assert [type(child) for child in net] == [type(child) for child in mlp()]


@pytest.mark.parametrize("key", [key for key in KEYS if key != "none"])
@pytest.mark.parametrize("kind", [nn.Linear, nn.GRU, nn.Embedding, type("Mine", (nn.Linear,), {})])
def test_a_layer_itself_cannot_be_converted_in_place(key, kind):
    with pytest.raises(UsageError, match=f"{kind.__name__} cannot be replaced in place"):
        convert(kind(3, 3), key)


@pytest.mark.parametrize(
    "kind", ["forward", "forward_pre", "full_backward", "full_backward_pre", "load_state_dict_pre"]
)
def test_hooks_that_conversion_would_lose_are_an_error(kind):
    net = mlp()
    getattr(net[2], f"register_{kind}_hook")(lambda *_: None)
    with pytest.raises(UsageError, match=r"^2: the Linear has hooks"):
        convert(net, "weight")


@pytest.mark.parametrize("key", NORMALISERS)
def test_all_leading_axes_of_a_linear_layer_are_one_batch(key):
    net = mlp()
    convert(net, key)
    net(torch.randn(32, 6))
    x = torch.randn(5, 4, 6)
    flat = copy.deepcopy(net)(x.reshape(20, 6))
    torch.testing.assert_close(net(x), flat.reshape(5, 4, 3))


@pytest.mark.parametrize("key", KEYS)
def test_mode_device_and_dtype_are_those_of_the_plain_layer(key):
    net = mlp().double().eval()
    convert(net, key)
    assert not any(module.training for module in net.modules())
    assert {p.dtype for p in net.parameters()} == {torch.float64}


@pytest.mark.parametrize("key", ["batch", "batch_renorm", "mean", "weight_mean"])
def test_momentum_is_an_argument(key):
    net = mlp()
    convert(net, key, norm_kwargs={"momentum": 0.25})
    assert net[0].norm.momentum == 0.25


@pytest.mark.parametrize("key", KEYS)
def test_target_networks_can_follow_every_buffer_that_has_to_change(key):
    """stable-baselines3 copies state whose name holds ``running_``, and averages the parameters."""
    online, target = conv_net(), conv_net()
    convert(online, key)
    convert(target, key)
    for _ in range(3):
        online(images() * 3 + 1).square().mean().backward()
    with torch.no_grad():
        for mine, theirs in zip(target.parameters(), online.parameters(), strict=True):
            mine.copy_(theirs)
        for name, mine in target.state_dict().items():
            if "running_" in name:
                assert mine.is_floating_point()
                mine.mul_(0).add_(online.state_dict()[name])
    online.eval()
    target.eval()
    assert torch.equal(online(images()), target(images()))


def test_weight_norm_takes_its_options():
    net = mlp()
    convert(net, "weight", norm_kwargs={"v_init_std": 0.05, "scale": "exp"})
    torch.testing.assert_close(net[0].weight_v.square().mean(1).sqrt(), torch.full((8,), 0.05))
    x = torch.randn(4, 6)
    torch.testing.assert_close(net(x), mlp()(x))


def test_tied_weights_stay_tied():
    net = nn.ModuleDict({"words": nn.Embedding(7, 4), "out": nn.Linear(4, 7, bias=False)})
    net["out"].weight = net["words"].weight
    convert(net, "weight")
    assert net["out"].weight_v is net["words"].weight_v
    assert net["out"].weight_g is net["words"].weight_g


def test_tied_weights_stay_tied_in_the_folded_copy():
    net = nn.ModuleDict({"words": nn.Embedding(7, 4), "out": nn.Linear(4, 7, bias=False)})
    net["out"].weight = net["words"].weight
    convert(net, "weight")
    folded = fold(net)
    assert folded["out"].weight is folded["words"].weight
    torch.testing.assert_close(folded["out"].weight, net["out"].compute_weight())


@pytest.mark.parametrize("key", ["weight", "spectral"])
def test_hooks_that_folding_would_lose_are_an_error(key):
    net = nn.ModuleDict({"body": mlp()})
    convert(net, key)
    net["body"][4].register_forward_hook(lambda *_: None)
    with pytest.raises(UsageError, match=r"body\.4 has hooks"):
        fold(net)


@pytest.mark.parametrize(
    ("key", "options"), [("weight_mean", {"scale": "exp"}), ("weight", {"scale": "exp"})]
)
def test_a_conversion_that_fails_names_the_layer_and_changes_nothing(key, options):
    net = mlp()
    nn.init.zeros_(net[4].weight)
    before = copy.deepcopy(net)
    with pytest.raises(UsageError, match=r"^4: .* rows of length zero"):
        convert(net, key, norm_kwargs=options)
    assert repr(net) == repr(before)
    assert all(torch.equal(net.state_dict()[k], v) for k, v in before.state_dict().items())


def test_a_zero_head_under_spectral_norm_is_named():
    net = nn.ModuleDict({"body": mlp()})
    nn.init.zeros_(net["body"][4].weight)
    with pytest.raises(UsageError, match=r"^body\.4: spectral norm needs"):
        convert(net, "spectral")
    assert type(net["body"][0]) is nn.Linear


@pytest.mark.parametrize("key", NORMALISERS)
@pytest.mark.parametrize(("name", "value"), [("eps", -1.0), ("momentum", 5)])
def test_an_option_that_makes_no_sense_is_refused(key, name, value):
    if name in NORMS[key].options:
        with pytest.raises(UsageError, match=rf"^{name} must be"):
            convert(mlp(), key, norm_kwargs={name: value})


@pytest.mark.parametrize(
    "function", [convert, fold, data_init, lambda module: plain_parts(module, "weight")]
)
@pytest.mark.parametrize(
    ("given", "shown"), [(3, "3"), ("a", "'a'"), (nn.Linear, "the class Linear")]
)
def test_what_is_no_module_is_refused(function, given, shown):
    with pytest.raises(UsageError, match=f"^module must be a Module, got {shown}$"):
        function(given)


def test_an_option_that_a_normaliser_refuses_names_the_layer():
    with pytest.raises(UsageError, match=r"^0: r_max must be at least 1"):
        convert(mlp(), "batch_renorm", norm_kwargs={"r_max": 0.5})


def test_layers_without_values_are_named():
    net = nn.Sequential(nn.Linear(3, 4), nn.LazyLinear(2))
    with pytest.raises(UsageError, match=r"^1 is lazy"):
        convert(net, "weight")


def memory():
    return nn.ModuleDict({"lstm": nn.LSTM(3, 4), "body": mlp()})


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("layer", "batch", r"^body.0: has a LayerNorm already"),
        ("batch", "mean", r"^body.0: has a BatchNorm1d already"),
        ("weight", "spectral", r"^lstm: is a WNLSTM already"),
        ("weight", "layer", r"^lstm: is a WNLSTM already"),
        ("spectral", "weight_mean", r"^lstm: is a SpectralLSTM already"),
        ("rms", "layer", r"^lstm: is a RMSNormLSTM already"),
        ("weight", "projected", r"^lstm: is a WNLSTM already"),
        ("layer", "projected", r"^lstm: is a LayerNormLSTM already"),
        ("projected", "weight", r"^lstm: is projected already"),
    ],
)
def test_a_second_norm_of_the_same_kind_is_refused_and_changes_nothing(first, second, message):
    net = memory()
    convert(net, first)
    before = copy.deepcopy(net)
    with pytest.raises(UsageError, match=message):
        convert(net, second)
    assert repr(net) == repr(before)
    assert all(map(torch.equal, net.state_dict().values(), before.state_dict().values()))


@pytest.mark.parametrize("norm", ["weight", "spectral"])
def test_computed_weights_of_hidden_layers_are_not_projected(norm):
    net = mlp()
    convert(net, norm)
    with pytest.raises(UsageError, match=r"^0: is a \w+Linear already"):
        convert(net, "projected")
    heads = mlp()
    convert(heads, norm, skip=("0", "2"))
    assert convert(heads, "projected") == ["0", "2"]


def test_rows_are_projected_before_a_normaliser_comes_behind_them():
    net = mlp()
    convert(net, "batch")
    with pytest.raises(UsageError, match=r'^0: has a BatchNorm1d already: convert to "projected"'):
        convert(net, "projected")
    net = mlp()
    assert convert(net, "projected") == convert(net, "batch") == ["0", "2"]


@pytest.mark.parametrize(
    ("key", "first", "second", "message"),
    [
        ("batch", {}, {"placement": "post"}, "with placement 'pre', not 'post'"),
        ("batch", {"placement": "post"}, {}, "with placement 'post', not 'pre'"),
        ("batch", {}, {"norm_kwargs": {"momentum": 0.3}}, "momentum=0.1 already, got momentum=0.3"),
        ("weight", {}, {"norm_kwargs": {"scale": "exp"}}, "scale='linear' already"),
    ],
)
def test_other_options_than_the_first_time_are_refused(key, first, second, message):
    net = mlp()
    convert(net, key, **first)
    with pytest.raises(UsageError, match=message):
        convert(net, key, **second)


@pytest.mark.filterwarnings("ignore:norm .* left .* as they were")
def test_what_is_still_plain_takes_another_norm():
    net = memory()
    assert convert(net, "layer", skip=("body",)) == ["lstm"]
    assert convert(net, "batch") == ["body.0", "body.2"]
    assert convert(net, "spectral", skip=("lstm",)) == ["body.0", "body.2", "body.4"]
    assert net["body"](torch.randn(8, 6)).isfinite().all()


def test_spectral_layers_take_a_normaliser_behind_them():
    net = mlp()
    convert(net, "spectral")
    assert convert(net, "batch") == ["0", "2"]
    assert plain_parts(net, "batch") == plain_parts(net, "spectral") == []


def test_normalised_lstms_take_the_option_of_their_norm():
    net = memory()
    convert(net, "layer", norm_kwargs={"eps": 0.1})
    assert net["lstm"].eps == net["body"][0].norm.eps == 0.1


def test_momentum_none_averages_under_batch_renorm():
    net = mlp()
    convert(net, "batch_renorm", norm_kwargs={"momentum": None})
    assert net(torch.randn(8, 6)).isfinite().all()


class Functional(nn.Module):
    """Nonlinearities as functions, which ``convert`` cannot see."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.out = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.out(torch.relu(self.fc2(torch.relu(self.fc1(x)))))


HIDDEN_ONLY = [key for key in KEYS if key not in ("none", "weight", "weight_mean", "spectral")]


@pytest.mark.parametrize("key", HIDDEN_ONLY)
def test_a_norm_that_finds_no_hidden_layer_warns_and_every_layer_is_reported(key):
    net = Functional()
    with pytest.warns(UserWarning, match=rf"'{key}' left fc1, fc2, out as they were: a hidden"):
        assert convert(net, key) == []
    assert plain_parts(net, key) == ["fc1", "fc2", "out"]
    assert convert(net, key, skip=("fc1", "fc2", "out")) == []


def test_weight_norm_with_a_mean_warns_where_it_had_no_place_for_the_mean():
    net = Functional()
    with pytest.warns(UserWarning, match="'weight_mean' left fc1, fc2, out as"):
        assert convert(net, "weight_mean") == ["fc1", "fc2", "out"]


@pytest.mark.parametrize("key", HIDDEN_ONLY)
def test_layers_outside_of_sequentials_are_reported_beside_recognised_ones(key):
    net = nn.ModuleDict({"features": Functional(), "body": mlp()})
    with pytest.warns(UserWarning, match=r"left features\.fc1, features\.fc2, features\.out as"):
        assert convert(net, key) == ["body.0", "body.2"]
    names = ["features.fc1", "features.fc2", "features.out"]
    assert plain_parts(net, key) == names
    assert convert(net, key, skip=names) == []


@pytest.mark.parametrize("key", [*HIDDEN_ONLY, "weight_mean"])
def test_hidden_layers_that_are_named_need_no_module_behind_them(key):
    net = Functional()
    converted = convert(net, key, hidden=("fc1", "fc2"))
    assert converted[:2] == ["fc1", "fc2"]
    assert net(torch.randn(5, 6)).isfinite().all()
    choice = NORMS[key]
    touched = choice.marked if choice.mark else (lambda layer: isinstance(layer, Normalized))
    assert touched(net.fc2)
    assert not touched(net.out)


@pytest.mark.parametrize(
    ("hidden", "placement"), [(("nope",), "pre"), (("1",), "pre"), (("4",), "post")]
)
def test_a_hidden_layer_that_has_no_place_for_a_normalizer_is_refused(hidden, placement):
    net = mlp()
    with pytest.raises(UsageError, match=f"hidden names '{hidden[0]}'"):
        convert(net, "layer", hidden=hidden, placement=placement)
    assert not any(isinstance(part, Normalized) for part in net.modules())


def test_a_layer_that_is_parametrized_already_is_reported():
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)))
    with pytest.warns(UserWarning, match="'weight' left 0 as they were"):
        assert convert(net, "weight") == []


@pytest.mark.parametrize("name", ["weight", "W", "kernel", "in_proj_weight"])
def test_a_layer_of_another_kind_with_a_weight_is_reported(name):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.randn(4, 1))
            self.register_parameter(name, nn.Parameter(torch.randn(4, 4)))

    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), Scaled(), nn.LayerNorm([4, 4]))
    with pytest.warns(UserWarning, match="'weight' left 2 as they were"):
        assert convert(net, "weight") == ["0"]


def baked(layer, name="weight"):
    """The layer after torch's weight norm was put on it and taken off again."""
    parametrize = nn.utils.parametrize
    nn.utils.parametrizations.weight_norm(layer, name)
    return parametrize.remove_parametrizations(layer, name)


@pytest.mark.parametrize("key", ["weight", "spectral", "layer"])
@pytest.mark.parametrize(
    "build",
    [
        lambda: baked(nn.Linear(3, 4)),
        lambda: baked(nn.LSTM(3, 4, bias=False), "weight_ih_l0"),
        lambda: baked(nn.LSTM(3, 3, bias=False), "weight_ih_l0"),
        lambda: baked(nn.GRU(3, 3, 2, bidirectional=True), "weight_hh_l1_reverse"),
        lambda: baked(nn.LSTM(3, 4, proj_size=2), "weight_hr_l0"),
    ],
    ids=["linear", "lstm", "square-lstm", "gru", "projected-lstm"],
)
@pytest.mark.filterwarnings("ignore:norm .* left .* as they were")
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported")
def test_parameters_that_were_registered_anew_keep_their_places(key, build):
    net = nn.Sequential(build()).eval()
    plain = copy.deepcopy(net[0])
    convert(net, key)
    x = torch.randn(5, 2, 3)
    for name, value in plain.named_parameters():
        if NORMS[key].paired:
            torch.testing.assert_close(getattr(net[0], name), value)
    out, expected = net(x), plain(x)
    if key == "weight":
        torch.testing.assert_close(out, expected)
    assert isinstance(out, type(expected))


def with_lora(layer):
    layer.lora_a = nn.Parameter(torch.zeros(2, 2))


def pruned(layer):
    prune.l1_unstructured(layer, "weight", amount=1)
    layer._forward_pre_hooks.clear()


def plain_tensor(layer):
    weight = layer.weight.detach()
    del layer.weight
    layer.weight = weight


def dropped(layer):
    layer.register_parameter("weight_raw", layer._parameters.pop("weight"))


def own_forward(layer):
    layer.forward = lambda x: x


def buffer(layer):
    layer.register_buffer("count", torch.zeros(()))


def module(layer):
    layer.adapter = nn.Linear(2, 2)


def parameter_hook(layer):
    layer.weight.register_hook(lambda grad: 2 * grad)


def state_hook(layer):
    layer.register_state_dict_pre_hook(lambda *_: None)


@pytest.mark.parametrize("key", ["weight", "spectral"])
@pytest.mark.parametrize(
    "change",
    [
        *(with_lora, pruned, plain_tensor, dropped, own_forward),
        *(buffer, module, parameter_hook, state_hook),
    ],
)
def test_what_conversion_would_lose_is_refused_before_anything_changes(key, change):
    net = mlp()
    change(net[2])
    with pytest.raises(UsageError, match=r"^2:? "):
        convert(net, key)
    assert all(type(net[i]) is nn.Linear for i in (0, 2, 4))


@pytest.mark.parametrize("key", ["weight", "spectral"])
@pytest.mark.parametrize("change", [own_forward, buffer, module, state_hook])
def test_what_folding_would_lose_is_refused(key, change):
    net = mlp()
    convert(net, key)
    change(net[2])
    with pytest.raises(UsageError, match=r"^2 has .* that folding would lose"):
        fold(net)


def test_a_weight_tied_to_a_layer_that_stays_plain_is_an_error():
    net = nn.ModuleDict({"words": nn.Embedding(7, 4), "out": nn.Linear(4, 7, bias=False)})
    net["out"].weight = net["words"].weight
    with pytest.raises(UsageError, match=r"words\.weight and out\.weight are one parameter"):
        convert(net, "weight", skip=("out",))
    assert convert(net, "weight", skip=("out", "words")) == []


@pytest.mark.filterwarnings("ignore:norm .* left .* as they were")
@pytest.mark.parametrize("key", ["layer", "rms"])
def test_lstms_are_replaced_by_normalised_ones_and_other_recurrent_layers_reported(key):
    net = nn.ModuleDict({"lstm": nn.LSTM(3, 4), "gru": nn.GRU(3, 4)})
    assert convert(net, key) == ["lstm"]
    assert type(net["lstm"]).__name__ == {"layer": "LayerNormLSTM", "rms": "RMSNormLSTM"}[key]
    assert plain_parts(net, key) == ["gru"]


class Words(nn.Embedding):
    pass


@pytest.mark.filterwarnings("ignore:norm .* left .* as they were")
@pytest.mark.parametrize("key", ["weight", "weight_mean", "spectral"])
def test_embeddings_that_stay_plain_are_reported(key):
    kinds = {"words": nn.Embedding, "bag": nn.EmbeddingBag, "own": Words}
    net = nn.ModuleDict({name: kind(7, 4) for name, kind in kinds.items()})
    net["body"] = mlp()
    convert(net, key)
    reached = ["words"] if key != "spectral" else []
    assert plain_parts(net, key) == [name for name in kinds if name not in reached]
    assert not {*kinds} & {*plain_parts(net, "batch")}


@pytest.mark.filterwarnings("ignore:norm .* left .* as they were")
def test_plain_parts_names_what_a_norm_could_not_reach():
    net = nn.ModuleDict(
        {
            "memory": nn.LSTM(6, 8),
            "body": nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.1), nn.ReLU(), nn.Linear(8, 2)),
            "attention": nn.MultiheadAttention(8, 2),
            "reached": nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)),
        }
    )
    parts = ["memory", "body.0", "body.3", "attention", "attention.out_proj"]
    convert(net, "batch")
    assert plain_parts(net, "batch") == parts
    assert plain_parts(net, "batch", skip=("attention",)) == parts[:3]
    assert plain_parts(net, "none") == []
    convert(net, "weight")
    assert plain_parts(net, "weight") == parts[3:]


class Listed(nn.Module):
    """A network that also has its layers where torch does not look."""

    def __init__(self, wrap):
        super().__init__()
        self.net = mlp()
        self.calls = wrap(self.net)


@pytest.mark.parametrize(
    "wrap",
    [
        list,
        lambda net: {"first": net[0], "then": net[1]},
        lambda net: [net[1].forward, net[0].forward],
        lambda net: partial(nn.Module.__call__, net[0]),
        lambda net: SimpleNamespace(layers=(*net,)),
    ],
)
@pytest.mark.parametrize("key", sorted(set(NORMS) - {"none", "projected"}))
def test_a_layer_that_would_stay_behind_in_a_list_is_refused(key, wrap):
    net = Listed(wrap)
    before = repr(net)
    with pytest.raises(UsageError, match=r"^calls holds net\.0 outside of the modules"):
        convert(net, key)
    assert repr(net) == before
    convert(net, "projected")  # in place


def test_a_network_is_compiled_before_or_after_but_a_layer_of_it_after():
    x = torch.randn(3, 6)
    net = torch.compile(mlp(), backend="eager")
    net(x)
    convert(net)
    torch.testing.assert_close(net(x), mlp()(x))
    assert isinstance(net._orig_mod[0], WNLinear)
    with pytest.raises(UsageError, match=r"0\.forward holds 0\._orig_mod .* convert before"):
        convert(nn.Sequential(torch.compile(nn.Linear(6, 3), backend="eager")))


class Trained(nn.Module):
    """A network that holds its optimizer, as policies of stable-baselines3 and many others do."""

    def __init__(self, wrap=lambda optimizer: optimizer):
        super().__init__()
        self.net = mlp()
        self.optimizer = wrap(torch.optim.Adam(self.net.parameters()))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda o: o,
        lambda o: [o],
        lambda o: {"net": o},
        lambda o: {"nets": [(o,)]},
        lambda o: OrderedDict(net=o),
        lambda o: torch.optim.lr_scheduler.StepLR(o, 1),
        lambda o: deque([o]),
        lambda o: SimpleNamespace(stage=SimpleNamespace(optimizer=o)),
        lambda o: o.step,
    ],
)
@pytest.mark.parametrize("key", sorted(set(NORMS) - {"none", "spectral"}))
def test_a_network_that_has_an_optimizer_is_refused_and_stays_as_it_is(key, wrap):
    parent = nn.ModuleDict({"agent": Trained(wrap)})
    before = repr(parent)
    with pytest.raises(UsageError, match=r"optimizer already \(agent\.optimizer\).*WNMlpPolicy"):
        convert(parent, key)
    assert repr(parent) == before
    assert not any(getattr(part, "projected", False) for part in parent.modules())


def test_what_is_wrapped_for_several_processes_is_refused(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(mlp())
        with pytest.raises(UsageError, match=r"DistributedDataParallel already.*convert before"):
            convert(parallel)
        convert(parallel, "spectral")  # whose parameters stay
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:norm", "ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("key", sorted(set(NORMS) - {"none"}))
def test_transformers_of_torch_compute_with_the_norm_in_evaluation_too(key):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    net = nn.TransformerEncoder(layer, 2)
    convert(net, key, hidden=[f"layers.{k}.linear1" for k in range(2)])
    net(torch.randn(4, 3, 8))  # statistics of a batch
    net.eval()
    x, mask = torch.randn(4, 3, 8), torch.tensor([[False, False, True]]).expand(4, 3)
    learning = net(x, src_key_padding_mask=mask)
    with torch.no_grad():
        real = ~mask
        torch.testing.assert_close(net(x, src_key_padding_mask=mask)[real], learning[real])


@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("key", NORMS)
def test_an_image_without_a_batch_is_a_batch_of_one(key, axes, placement):
    """Also where its channels are as many as its rows, which no shape tells from a batch."""
    plain = nn.Sequential(getattr(nn, f"Conv{axes}d")(4, 4, 1), nn.ReLU(), nn.Flatten(-axes))
    convert(plain, key, placement=placement, hidden=["0"])
    plain(torch.randn(5, *[4] * (axes + 1)))
    for net in (plain.train(), plain.eval()):
        twin, x = copy.deepcopy(net), torch.randn([4] * (axes + 1))
        torch.testing.assert_close(net(x), twin(x[None])[0])


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e4m3fn])
@pytest.mark.parametrize("key", sorted(set(NORMS) - {"none"}))
def test_weights_that_no_norm_computes_with_are_refused_and_stay(key, dtype):
    net = mlp()
    net[0].weight = nn.Parameter(torch.zeros(8, 6).to(dtype), requires_grad=False)
    before = repr(net)
    with pytest.raises(UsageError, match=rf"^0: .*real numbers of 16 bits or more, got {dtype}"):
        convert(net, key)
    assert repr(net) == before


def test_spectral_norm_keeps_the_parameters_that_an_optimizer_has():
    trained = Trained()
    assert convert(trained, "spectral")
    held = {id(p) for p in trained.optimizer.param_groups[0]["params"]}
    assert held == {id(p) for p in trained.parameters()}


def test_an_optimizer_of_other_parts_is_no_matter():
    trained = Trained()
    trained.head = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    assert convert(trained, "weight", skip=["net"]) == ["head.0", "head.2"]


class Autoencoder(nn.Module):
    """One weight for a convolution and its transpose, whose output units differ."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 3, 3)
        self.up.weight = self.down.weight


def test_layers_that_share_a_weight_but_no_output_units_are_named():
    net = Autoencoder()
    with pytest.raises(UsageError, match=r"down\.weight and up\.weight are one parameter with"):
        convert(net)
    assert type(net.down) is nn.Conv2d
    assert convert(net, skip=["down", "up"]) == []


class Swish(nn.Module):
    def forward(self, x):
        return x * x.sigmoid()


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_a_nonlinearity_of_ones_own_is_named(placement):
    net = nn.Sequential(nn.Linear(3, 4), Swish(), nn.Linear(4, 2))
    assert convert(net, "layer", placement=placement, activations=[Swish])
    assert isinstance(net[0 if placement == "pre" else 1], Normalized)
    assert plain_parts(net, "layer") == []


def test_torchs_parametrizations_are_named_with_what_to_do():
    net = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 2)))
    with pytest.warns(UserWarning, match=r"left 0 as they were: remove torch's parametrizations"):
        convert(net)


def tagged():
    """A network whose parts have what a caller set on them."""
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Conv1d(4, 2, 1), nn.ReLU(), nn.LSTM(3, 4))
    for place, part in enumerate(net):
        part.tag, part.groups_of = f"part {place}", {"rates": [place]}
    net.tag = "root"
    return net


@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("key", KEYS)
def test_what_was_set_on_a_layer_is_found_on_what_takes_its_place_and_on_its_folded_copy(
    key, placement
):
    net, places = tagged(), range(5)
    convert(net, key, placement=placement)
    for result in (net, fold(net), copy.deepcopy(net)):
        assert result.tag == "root"
        assert [result[k].tag for k in places] == [f"part {k}" for k in places]
        assert [result[k].groups_of for k in places] == [{"rates": [k]} for k in places]
    assert fold(net)[0].groups_of["rates"] is not net[0].groups_of["rates"]


@pytest.mark.parametrize("key", ["weight", "spectral"])
def test_a_layer_that_is_folded_by_itself_keeps_what_was_set_on_it(key):
    layer = NORMS[key].layers[nn.Linear].from_plain(nn.Linear(3, 4))
    layer.tag = "alone"
    assert fold(layer).tag == "alone"


def test_an_attribute_that_refers_to_another_layer_refers_to_its_folded_copy():
    net = tagged()
    net[0].partners = [net[2]]
    convert(net, "weight", skip=("2",))
    folded = fold(net)
    assert folded[0].partners[0] is folded[2]


def test_an_attribute_whose_name_the_norm_needs_is_refused_before_anything_changes():
    net = tagged()
    net[2].scale = 2.0
    with pytest.raises(UsageError, match=r"^2: the Conv1d has its own scale.*rename it"):
        convert(net, "weight")
    assert type(net[0]) is nn.Linear


def test_a_forward_that_was_set_on_a_nonlinearity_stays_its_own():
    net = mlp()
    net[1].forward = lambda x: 0 * x
    convert(net, "layer", placement="post")
    assert isinstance(net[1], Normalized)
    assert net[1].forward(torch.randn(4, 8)).eq(0).all()
    net[1].norm.bias.data.fill_(2.0)
    assert net[1](torch.randn(4, 8)).eq(2).all()


class Halved(nn.Linear):
    """A user's layer, which wnrl knows nothing of."""

    plain_type = nn.Linear

    def __init__(self, half, *, rate):
        super().__init__(2 * half, 2)
        self.rate = rate

    def to_plain(self):
        return nn.Linear(self.in_features, 2)


def test_a_layer_with_a_way_to_fold_of_its_own_says_itself_what_it_keeps():
    net = nn.Sequential(Halved(2, rate=3), nn.ReLU())
    assert convert(net, "layer") == ["0"]
    assert net[0].layer.rate == 3
    assert type(fold(net)[0].layer) is nn.Linear


@pytest.mark.parametrize(
    ("norm", "option"),
    [(norm, option) for norm, row in NORMS.items() for option in row.options + row.layer_options],
)
@pytest.mark.parametrize("value", [True, False])
def test_true_and_false_are_no_numbers_of_an_option(norm, option, value):
    net = mlp()
    with pytest.raises(UsageError, match=f"{option} must be .*, got {value}"):
        convert(net, norm, norm_kwargs={option: value})
    assert type(net[0]) is nn.Linear
    if NORMS[norm].layers and option in NORMS[norm].layer_options:
        plain = next(iter(NORMS[norm].layers))
        with pytest.raises(UsageError, match=f"{option} must be .*, got {value}"):
            NORMS[norm].layers[plain].from_plain(plain(3, 4), **{option: value})
