import copy
import math
import pickle

import pytest
import torch
from stable_baselines3 import DQN, PPO
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from wnrl import convert, fold
from wnrl.errors import UsageError
from wnrl.optim import (
    WNSGD,
    WNAdam,
    WNAdamax,
    WNAdamW,
    WNRMSprop,
    param_groups,
    project_,
    weight_normalized,
)

PAIRS = [
    (WNSGD, torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}),
    (WNAdam, torch.optim.Adam, {"lr": 1e-3}),
    (WNAdamW, torch.optim.AdamW, {"lr": 1e-3, "weight_decay": 0.0}),
    (WNAdamax, torch.optim.Adamax, {"lr": 1e-3}),
    (WNRMSprop, torch.optim.RMSprop, {"lr": 1e-3}),
]


def network(dtype=torch.float64):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, groups=2), nn.Tanh(), nn.Flatten(), nn.Linear(64, 8), nn.Tanh()
    )
    return net.append(nn.Linear(8, 3)).to(dtype)


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


def batch(step, shape=(4, 2, 6, 6), dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(step), dtype=dtype)


def train(net, optimizer, steps, shape=(4, 2, 6, 6), first=0):
    dtype = next(net.parameters()).dtype
    for step in range(first, first + steps):
        optimizer.zero_grad()
        out = net(batch(step, shape, dtype))
        (out - 1).square().mean().backward()
        optimizer.step()


def difference(net, other, shape=(4, 2, 6, 6)):
    x = batch(999, shape, next(net.parameters()).dtype)
    return (net(x) - other(x)).abs().max().item()


def test_what_is_no_module_is_not_projected():
    with pytest.raises(UsageError, match="module must be a Module, got 3"):
        project_(3)


@pytest.mark.parametrize(("ours", "plain", "options"), PAIRS)
def test_300_float64_steps_are_those_of_weight_normalized_layers(ours, plain, options):
    net, layers = network(), network()
    convert(layers, "weight")
    start = network()
    train(net, ours(net.parameters(), **options), 300)
    train(layers, plain(layers.parameters(), **options), 300)
    for mine, theirs in zip(net.parameters(), fold(layers).parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=0)
    assert difference(net, layers) < 1e-12 < difference(net, start)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_laid_out_in_another_order_step_alike(dtype):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 48, 3).to(dtype)
    matrix = nn.Parameter(torch.randn(192, 10, dtype=dtype))
    weights = [conv.weight, matrix]
    strided = [
        nn.Parameter(conv.weight.detach().clone(memory_format=torch.channels_last)),
        nn.Parameter(matrix.detach().t().contiguous().t()),
    ]
    optimizers = [WNAdam(group, lr=1e-2) for group in (weights, strided)]
    for step in range(3):
        for group, optimizer in zip((weights, strided), optimizers, strict=True):
            for w in group:
                w.grad = torch.empty_like(w).copy_(batch(step, w.shape, dtype))
                assert w.grad.stride() == w.stride()
            optimizer.step()
    for contiguous, other in zip(weights, strided, strict=True):
        assert not other.is_contiguous()
        torch.testing.assert_close(contiguous, other)


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions_are_normalised_for_each_output_channel(groups):
    torch.manual_seed(0)
    net = nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=groups)).double()
    layers = copy.deepcopy(net)
    convert(layers, "weight")
    optimizer = WNAdam(param_groups(net, lr=1e-2))
    train(net, optimizer, 50, (2, 4, 3, 3))
    train(layers, torch.optim.Adam(layers.parameters(), lr=1e-2), 50, (2, 4, 3, 3))
    torch.testing.assert_close(net[0].weight, fold(layers)[0].weight, atol=1e-12, rtol=0)
    assert optimizer.state[net[0].weight]["g"].numel() == 6


def test_the_float32_kernels_agree_with_the_layers():
    net, layers = network(torch.float32), network(torch.float32)
    convert(layers, "weight")
    train(net, WNAdam(net.parameters(), lr=1e-3), 100)
    train(layers, torch.optim.Adam(layers.parameters(), lr=1e-3), 100)
    assert difference(net, layers) < 1e-4


def test_the_length_of_v_does_not_shrink_under_gradient_descent():
    net = mlp()
    optimizer = WNSGD(net.parameters(), lr=0.5)
    before = optimizer.state[net[0].weight]["v"].norm(dim=1)
    train(net, optimizer, 20, (8, 3))
    assert (optimizer.state[net[0].weight]["v"].norm(dim=1) > before).all()


@pytest.mark.parametrize(("ours", "_plain", "options"), PAIRS)
@pytest.mark.parametrize("network_first", [True, False])
def test_a_resumed_run_is_equal_bit_for_bit(ours, _plain, options, network_first, tmp_path):
    straight, resumed = network(torch.float32), network(torch.float32)
    optimizer = ours(straight.parameters(), **options)
    train(straight, optimizer, 5)
    path = tmp_path / "state.pt"
    torch.save([straight.state_dict(), optimizer.state_dict()], path)
    train(straight, optimizer, 5, first=5)

    other = ours(resumed.parameters(), **options)
    states = list(zip((resumed, other), torch.load(path, weights_only=True), strict=True))
    for target, state in states if network_first else states[::-1]:
        target.load_state_dict(state)
    train(resumed, other, 5, first=5)
    for mine, theirs in zip(resumed.parameters(), straight.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("steps", [0, 3])
def test_a_copy_with_its_network_goes_on_alone_and_equally(copier, steps):
    net = network(torch.float32)
    optimizer = WNAdam(net.parameters(), lr=1e-2)
    train(net, optimizer, steps)
    twin, twin_optimizer = copier((net, optimizer))
    before = copy.deepcopy(net.state_dict())
    train(twin, twin_optimizer, 3)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    train(net, optimizer, 3)
    assert difference(net, twin) == 0


def test_the_state_is_saved_by_parameter_in_its_shape():
    net = network(torch.float32)
    optimizer = WNAdam(net.parameters())
    train(net, optimizer, 2)
    state = optimizer.state_dict()["state"]
    conv, bias = state[0], state[1]
    assert conv.keys() == {"v", "g", "v_state", "g_state"}
    assert conv["v_state"]["exp_avg"].shape == conv["v"].shape == net[0].weight.shape
    assert conv["g_state"]["exp_avg"].shape == conv["g"].shape == (4, 1, 1, 1)
    assert bias.keys() == {"step", "exp_avg", "exp_avg_sq"}
    assert bias["exp_avg"].shape == net[0].bias.shape
    assert {float(own["step"]) for own in (bias, conv["v_state"], conv["g_state"])} == {2.0}


def test_plain_parameters_are_stepped_on_as_the_base_does():
    plain, ours = mlp(), mlp()
    frozen = [{"params": [net[0].weight, net[2].weight], "lr": 0.0} for net in (plain, ours)]
    biases = [{"params": [net[0].bias, net[2].bias]} for net in (plain, ours)]
    train(plain, torch.optim.Adam([frozen[0], biases[0]], lr=0.1), 5, (4, 3))
    train(ours, WNAdam([frozen[1], biases[1]], lr=0.1), 5, (4, 3))
    torch.testing.assert_close(ours[0].bias, plain[0].bias, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("steps", [0, 3])
def test_a_bias_that_someone_else_writes_is_followed(steps):
    net = mlp()
    optimizer = WNSGD(net.parameters(), lr=0.0)
    train(net, optimizer, steps, (4, 3))
    net[0].bias.data.fill_(7.0)
    net[2].bias.data = torch.full((2,), 8.0)
    train(net, optimizer, 1, (4, 3))
    assert (net[0].bias == 7).all()
    assert (net[2].bias == 8).all()


def test_options_may_change_after_the_first_step():
    def run(steps_before):
        net = mlp()
        optimizer = WNSGD(net.parameters(), lr=0.1, momentum=0.9)
        train(net, optimizer, steps_before, (4, 3))
        optimizer.param_groups[0].update(weight_decay=0.1, g_lr_scale=0.5)
        return net, optimizer

    (net, optimizer), (layers, _) = run(2), run(2)
    convert(layers, "weight")
    lengths = [m.weight_g for m in (layers[0], layers[2])]
    others = [p for p in layers.parameters() if all(p is not g for g in lengths)]
    decayed = [p for p in others if p.dim() == 1]
    groups = [
        {"params": [p for p in others if p.dim() > 1]},
        {"params": decayed, "weight_decay": 0.1},
        {"params": lengths, "lr": 0.05},
    ]
    first = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    for layer, plain in ((layers[0], net[0]), (layers[2], net[2])):
        state = optimizer.state_dict()["state"]
        index = [p is plain.weight for p in net.parameters()].index(True)
        layer.weight_v.data.copy_(state[index]["v"])
        layer.weight_g.data.copy_(state[index]["g"])
        first.state[layer.weight_v] = copy.deepcopy(state[index]["v_state"])
        first.state[layer.weight_g] = copy.deepcopy(state[index]["g_state"])
        first.state[layer.bias] = copy.deepcopy(state[index + 1])
    train(net, optimizer, 3, (4, 3), first=2)
    train(layers, first, 3, (4, 3), first=2)
    assert difference(net, layers, (4, 3)) < 1e-5


def test_hooks_on_every_optimizer_see_one_step():
    net, seen = mlp(), []
    optimizer = WNAdam(net.parameters())
    handle = register_optimizer_step_post_hook(
        lambda optimizer, args, kwargs: seen.append(optimizer)
    )
    try:
        train(net, optimizer, 1, (4, 3))
    finally:
        handle.remove()
    assert seen == [optimizer]


def test_a_pickle_holds_v_and_g_once():
    net = nn.Sequential(*(nn.Linear(40, 40) for _ in range(8)))
    optimizer = WNSGD(net.parameters(), lr=0.1)
    numbers = 2 * sum(p.numel() for p in net.parameters())  # w, and v with g
    assert len(pickle.dumps(optimizer)) < 1.5 * 4 * numbers


def test_a_weight_without_values_is_refused():
    with pytest.raises(UsageError, match=r"must have values, got shape \(4, 3\) on .* meta"):
        WNAdam(nn.Linear(3, 4, device="meta").parameters())


def test_a_state_without_v_and_g_is_refused_by_name():
    net = mlp()
    plain = torch.optim.Adam(net.parameters())
    train(net, plain, 1, (4, 3))
    with pytest.raises(UsageError, match=r"parameter 0 has no v and g.*WNAdam"):
        WNAdam(net.parameters()).load_state_dict(plain.state_dict())


def test_a_state_of_another_base_is_refused_by_name():
    net = mlp()
    saved = WNSGD(net.parameters(), lr=0.1, momentum=0.9)
    train(net, saved, 1, (4, 3))
    with pytest.raises(UsageError, match="saved by WNSGD, and this is WNAdam"):
        WNAdam(net.parameters()).load_state_dict(saved.state_dict())


@pytest.mark.parametrize("state", [None, {}, {"state": {}}, {"param_groups": []}])
def test_what_is_no_state_of_an_optimizer_is_refused(state):
    with pytest.raises(UsageError, match="state_dict must be that of an optimizer"):
        WNAdam(mlp().parameters()).load_state_dict(state)


def test_the_plain_optimizers_state_of_biases_loads():
    bias = nn.Parameter(torch.ones(3))
    plain, ours = torch.optim.Adam([bias], lr=0.5), WNAdam([bias])
    bias.grad = torch.ones(3)
    plain.step()
    ours.load_state_dict(plain.state_dict())
    ours.step()
    assert ours.state_dict()["state"][0]["step"] == 2
    assert ours.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("transposed", [-1, "2", 1.5])
def test_groups_that_are_no_count_are_refused(transposed):
    weights = [nn.Parameter(torch.randn(4, 4))]
    with pytest.raises(UsageError, match="transposed must be 0 or a number of groups, got"):
        WNAdam([{"params": weights, "transposed": transposed}])


def test_a_state_of_another_network_is_refused_by_parameter():
    wide = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4))
    net = mlp()
    optimizer = WNAdam(net.parameters())
    train(net, optimizer, 1, (4, 3))
    before = copy.deepcopy(optimizer.state_dict()["state"][2]["v"])
    with pytest.raises(
        UsageError, match=r"v of parameter 2 must have shape \(2, 5\), got \(4, 5\)"
    ):
        optimizer.load_state_dict(WNAdam(wide.parameters()).state_dict())
    assert torch.equal(optimizer.state_dict()["state"][2]["v"], before)


def test_a_group_that_is_refused_leaves_the_optimizer_as_it_was():
    net = mlp()
    optimizer = WNAdam(net.parameters())
    for wrong in ({"params": [nn.Parameter(torch.zeros(3, 0))]}, {"params": [], "g_lr_scale": -1}):
        with pytest.raises(UsageError):
            optimizer.add_param_group(wrong)
    train(net, optimizer, 1, (4, 3))
    assert len(optimizer.param_groups) == 1
    assert optimizer.state_dict()["state"].keys() == {0, 1, 2, 3}


def test_groups_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(UsageError, match="transposed=3 must divide the input channels"):
        WNAdam([{"params": nn.ConvTranspose2d(4, 6, 2).parameters(), "transposed": 3}])


@pytest.mark.parametrize("options", [{"maximize": True}, {"foreach": True}, {"fused": True}])
@pytest.mark.parametrize(
    "kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.Adamax]
)
def test_each_implementation_and_direction_is_that_of_the_base(kind, options):
    if "fused" in options and kind is torch.optim.Adamax:
        options = {"foreach": False}
    net, layers = mlp(), mlp()
    convert(layers, "weight")
    options = {**options, "lr": 0.01, "weight_decay": 0.0}
    train(net, weight_normalized(kind)(net.parameters(), **options), 5, (4, 3))
    train(layers, kind(layers.parameters(), **options), 5, (4, 3))
    assert difference(net, layers, (4, 3)) < 1e-5


def test_a_sparse_gradient_is_refused():
    words = nn.Embedding(10, 4, sparse=True)
    optimizer = WNSGD(words.parameters(), lr=0.1)
    words(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(UsageError, match=r"shape \(10, 4\) must have a dense gradient"):
        optimizer.step()


def test_a_step_that_is_refused_leaves_no_gradient_for_the_next():
    net, words = mlp(), nn.Embedding(10, 4, sparse=True)
    optimizer = WNSGD([*net.parameters(), *words.parameters()], lr=0.1)
    (net(torch.ones(1, 3)).sum() + words(torch.tensor([1])).sum()).backward()
    with pytest.raises(UsageError, match="dense gradient"):
        optimizer.step()
    before = copy.deepcopy(net.state_dict())
    optimizer.zero_grad()
    optimizer.step()
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_a_sparse_gradient_of_a_plain_parameter_is_left_to_the_base():
    table, bias = nn.Parameter(torch.ones(6)), nn.Parameter(torch.ones(2))
    optimizer = WNSGD([table, bias], lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        rows = torch.gather(table, 0, torch.tensor([1, 4]), sparse_grad=True)
        (rows + bias).sum().backward()
        assert table.grad.is_sparse
        optimizer.step()
    assert table.tolist() == [1, 0, 1, 1, 0, 1]
    assert bias.tolist() == [0, 0]


@pytest.mark.parametrize("copier", [lambda x: x, copy.deepcopy])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_what_no_fused_kernel_takes_is_stepped_on_by_the_base(dtype, copier):
    def parts():
        torch.manual_seed(0)
        sparse = dtype is torch.float32
        return nn.Embedding(10, 4, sparse=sparse, dtype=dtype), nn.Linear(4, 3)

    ours, theirs = parts(), parts()
    words, layer = (list(part.parameters()) for part in ours)
    groups = [{"params": words, "weight_norm": False}, {"params": layer}]
    ours, wrapped = copier((ours, WNSGD(groups, lr=0.1)))
    plain = torch.optim.SGD(theirs[0].parameters(), lr=0.1)
    for _ in range(3):
        for words, layer in (ours, theirs):
            words.zero_grad()
            out = words.weight[1:3].real if dtype.is_complex else words(torch.tensor([1, 2]))
            layer(out).square().sum().backward()
        wrapped.step()
        plain.step()
        theirs[1].load_state_dict(ours[1].state_dict())
    torch.testing.assert_close(ours[0].weight, theirs[0].weight)
    assert not torch.equal(ours[0].weight, parts()[0].weight)


def test_a_differentiable_step_is_refused():
    with pytest.raises(UsageError, match="differentiable must be False"):
        WNAdam(mlp().parameters(), differentiable=True)


@pytest.mark.parametrize("shape", [(64, 1), (6, 1, 1, 1)])
def test_a_parameter_with_one_number_in_each_row_is_stepped_on_by_the_base(shape):
    mine, theirs = (nn.Parameter(torch.full(shape, -2.0)) for _ in range(2))
    ours, plain = WNAdam([mine], lr=0.1), torch.optim.Adam([theirs], lr=0.1)
    for _ in range(40):
        for parameter in (mine, theirs):
            parameter.grad = torch.full(shape, -1.0)
        assert "v" not in ours.state[mine]
        ours.step()
        plain.step()
    torch.testing.assert_close(mine, theirs)


def test_one_channel_of_a_transposed_convolution_has_no_direction_either():
    net = nn.ConvTranspose2d(2, 2, 1, groups=2)
    pointwise, spread = nn.ConvTranspose2d(2, 6, 1, groups=2), nn.ConvTranspose2d(4, 2, 1, groups=2)
    for layer, expected in ((net, False), (pointwise, False), (spread, True)):
        optimizer = WNAdam(param_groups(layer, lr=0.1))
        assert ("v" in optimizer.state[layer.weight]) is expected


def load(net, values):
    net.load_state_dict(values)


def load_assigning_data(net, values):
    for name, parameter in net.named_parameters():
        parameter.data = values[name].clone()


def write_in_place(net, values):
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.copy_(values[name])


def write_a_vector(net, values):
    vector = nn.utils.parameters_to_vector(values[name] for name, _ in net.named_parameters())
    nn.utils.vector_to_parameters(vector, net.parameters())


@pytest.mark.parametrize("writer", [load, load_assigning_data, write_in_place, write_a_vector])
def test_weights_that_someone_else_writes_are_followed(writer):
    net, source = mlp(), nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    optimizer = WNSGD(net.parameters(), lr=1e-4)
    train(net, optimizer, 3, (4, 3))
    lengths = optimizer.state[net[0].weight]["v"].norm(dim=1)
    writer(net, source.state_dict())
    train(net, optimizer, 1, (4, 3))
    for mine, written in zip(net.parameters(), source.parameters(), strict=True):
        assert not torch.equal(mine, written)  # the step goes to where the weight is now
        torch.testing.assert_close(mine, written, atol=1e-3, rtol=0)
    torch.testing.assert_close(optimizer.state[net[0].weight]["v"].norm(dim=1), lengths)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_write_of_two_per_cent_into_a_half_precision_weight_is_followed(dtype, resume):
    net = mlp().to(dtype)
    optimizer = WNSGD(net.parameters(), lr=0.0)
    train(net, optimizer, 1, (4, 3))
    if resume:
        state = optimizer.state_dict()
        optimizer = WNSGD(net.parameters(), lr=0.0)
        optimizer.load_state_dict(state)
    with torch.no_grad():
        net[0].weight.mul_(1.02)
    expected = net[0].weight.detach().clone()
    train(net, optimizer, 1, (4, 3))
    assert torch.equal(net[0].weight, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_write_into_the_last_bits_of_a_half_precision_weight_is_followed(dtype):
    net = mlp().to(dtype)
    optimizer = WNSGD(net.parameters(), lr=0.0)
    train(net, optimizer, 1, (4, 3))
    with torch.no_grad():
        net[0].weight.mul_(1 + torch.finfo(dtype).eps)
    expected = net[0].weight.detach().clone()
    train(net, optimizer, 1, (4, 3))
    assert torch.equal(net[0].weight, expected)


SHORT_ROWS = [10.0**-power for power in range(1, 31)]


def short_rows(width):
    """A layer with rows of the lengths in ``SHORT_ROWS``."""
    net = nn.Sequential(nn.Linear(width, len(SHORT_ROWS)))
    nn.init.orthogonal_(net[0].weight)
    with torch.no_grad():
        net[0].weight.mul_(torch.tensor(SHORT_ROWS)[:, None])
    return net


@pytest.mark.parametrize("v_init_std", [None, 0.05])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_of_any_length_stay_as_they_are_and_learn(dtype, v_init_std):
    width = 40
    net = short_rows(width).to(dtype)
    optimizer = WNAdam(net.parameters(), lr=0.0, v_init_std=v_init_std)
    before = net[0].weight.detach().clone()
    train(net, optimizer, 2, (4, width))
    torch.testing.assert_close(net[0].weight.detach(), before, atol=0.0, rtol=1e-5)
    optimizer.param_groups[0]["lr"] = 1e-3
    train(net, optimizer, 3, (4, width))
    assert net[0].weight.isfinite().all()
    assert (net[0].weight != before).any(1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_of_any_length_are_followed(dtype):
    net = nn.Sequential(nn.Linear(40, len(SHORT_ROWS))).to(dtype)
    optimizer = WNAdam(net.parameters(), lr=0.0)
    train(net, optimizer, 1, (4, 40))
    written = short_rows(40).to(dtype)[0].weight
    with torch.no_grad():
        net[0].weight.copy_(written)
    train(net, optimizer, 2, (4, 40))
    torch.testing.assert_close(net[0].weight, written, atol=0.0, rtol=1e-5)


def test_weight_decay_acts_on_neither_v_nor_g():
    net, decayed = mlp(), mlp()
    train(net, WNAdamW(net.parameters(), lr=1e-2, weight_decay=0.0), 3, (4, 3))
    train(decayed, WNAdamW(decayed.parameters(), lr=1e-2, weight_decay=0.5), 3, (4, 3))
    one = copy.deepcopy(decayed)
    with torch.no_grad():  # the biases alone differ
        for mine, theirs in zip(one[::2], net[::2], strict=True):
            mine.bias.copy_(theirs.bias)
    torch.testing.assert_close(one[0].weight, net[0].weight, atol=1e-3, rtol=0)
    assert (decayed[0].bias - net[0].bias).abs().max() > 1e-3


def test_the_learning_rate_of_g_has_a_factor():
    net = mlp()
    optimizer = WNSGD(param_groups(net, lr=0.1, g_lr_scale=1e-9), lr=0.1)
    before = net[0].weight.norm(dim=1)
    train(net, optimizer, 5, (4, 3))
    torch.testing.assert_close(net[0].weight.norm(dim=1), before)
    assert (net[0].weight - mlp()[0].weight).abs().max() > 1e-3


def test_a_schedule_reaches_the_update():
    net = mlp()
    optimizer = WNSGD(net.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0 if step else 1.0)
    train(net, optimizer, 1, (4, 3))
    scheduler.step()
    before = copy.deepcopy(net)
    train(net, optimizer, 1, (4, 3))
    torch.testing.assert_close(net[0].weight, before[0].weight, atol=1e-7, rtol=1e-6)


def test_a_weight_without_gradient_rests():
    net = nn.ModuleList([nn.Linear(3, 2), nn.Linear(3, 2)])
    optimizer = WNAdam(net.parameters(), lr=0.1)
    net[0](torch.ones(1, 3)).sum().backward()
    net[1](torch.ones(1, 3)).sum().backward()
    optimizer.step()
    before = net[1].weight.clone()
    optimizer.zero_grad()
    net[0](torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert torch.equal(net[1].weight, before)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(("ours", "plain", "options"), PAIRS)
def test_weights_that_have_a_gradient_now_and_then_step_as_layers_do(ours, plain, options, resume):
    nets = [nn.ModuleList([nn.Linear(3, 2), nn.Linear(3, 2)]).double() for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    convert(nets[1], "weight")
    optimizers = [ours(nets[0].parameters(), **options), plain(nets[1].parameters(), **options)]
    for step in range(30):
        if resume and step == 20:
            state = optimizers[0].state_dict()
            optimizers[0] = ours(nets[0].parameters(), **options)
            optimizers[0].load_state_dict(state)
        for net, optimizer in zip(nets, optimizers, strict=True):
            optimizer.zero_grad()
            for head in net if step % 3 == 0 else net[:1]:
                (head(batch(step, (4, 3))) - 1).square().mean().backward()
            optimizer.step()
    for mine, theirs in zip(nets[0].parameters(), fold(nets[1]).parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=0)


def test_a_resumed_bf16_run_keeps_the_digits_of_v():
    net = mlp().bfloat16()
    optimizer = WNAdam(net.parameters(), lr=1e-3)
    train(net, optimizer, 3, (4, 3))
    twin = mlp().bfloat16()
    twin.load_state_dict(net.state_dict())
    other = WNAdam(twin.parameters(), lr=1e-3)
    other.load_state_dict(optimizer.state_dict())
    for mine, theirs in zip(net.parameters(), twin.parameters(), strict=True):
        assert optimizer.state[mine].keys() >= other.state[theirs].keys()
        if mine.dim() > 1:
            assert torch.equal(optimizer.state[mine]["v"], other.state[theirs]["v"])
    train(net, optimizer, 3, (4, 3))
    train(twin, other, 3, (4, 3))
    assert torch.equal(net[0].weight, twin[0].weight)


def test_a_closure_is_called_once_and_its_loss_returned():
    net, calls = mlp(), []
    optimizer = WNSGD(net.parameters(), lr=0.1)

    def closure():
        calls.append(1)
        optimizer.zero_grad()
        loss = net(torch.ones(2, 3)).square().mean()
        loss.backward()
        return loss

    first = optimizer.step(closure)
    assert optimizer.step(closure) < first
    assert len(calls) == 2


def test_v_and_g_are_float32_where_the_weight_is_bf16():
    net = mlp().bfloat16()
    optimizer = WNAdam(net.parameters(), lr=1e-2)
    train(net, optimizer, 2, (4, 3))
    state = optimizer.state[net[0].weight]
    assert {state["v"].dtype, state["g"].dtype} == {torch.float32}
    effective = state["g"] * state["v"] / state["v"].norm(dim=1, keepdim=True)
    assert torch.equal(net[0].weight, effective.bfloat16())


def test_a_gradient_scaler_sees_the_gradients_of_the_network():
    net, scaled = mlp(), mlp()
    train(net, WNSGD(net.parameters(), lr=0.1), 1, (4, 3))
    optimizer = WNSGD(scaled.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale((scaled(batch(0, (4, 3), torch.float32)) - 1).square().mean()).backward()
    scaler.step(optimizer)
    torch.testing.assert_close(scaled[0].weight, net[0].weight)


def test_v_init_std_is_the_size_of_v_and_leaves_the_function():
    net = mlp()
    optimizer = WNAdam(net.parameters(), lr=1e-3, v_init_std=0.05)
    v = optimizer.state[net[0].weight]["v"]
    torch.testing.assert_close(v.square().mean(1).sqrt(), torch.full((5,), 0.05))
    torch.testing.assert_close(net[0].weight, mlp()[0].weight)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"v_init_std": 0.0}, "v_init_std"),
        ({"lr": -1.0}, "^WNAdam: Invalid learning rate: -1.0$"),
        ({"lr": "x"}, "^lr must be a number .*, got 'x'$"),
        ({"betas": (0.9,)}, "^betas must be a tuple of 2, got"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        WNAdam(mlp().parameters(), **arguments)


@pytest.mark.parametrize("algorithm", [PPO, DQN])
def test_stable_baselines3_trains_saves_and_resumes_with_it(algorithm, tmp_path):
    short = {"n_steps": 32, "batch_size": 16} if algorithm is PPO else {"learning_starts": 20}
    policy_kwargs = {"optimizer_class": WNAdam, "net_arch": [8]}
    model = algorithm("MlpPolicy", "CartPole-v1", policy_kwargs=policy_kwargs, seed=0, **short)
    before = copy.deepcopy(model.policy.state_dict())
    model.learn(64)
    model.save(tmp_path / "agent")
    loaded = algorithm.load(tmp_path / "agent", env=model.get_env())
    assert isinstance(loaded.policy.optimizer, WNAdam)
    pairs = zip(model.policy.parameters(), loaded.policy.parameters(), strict=True)
    for mine, theirs in pairs:
        assert torch.equal(mine, theirs)
        states = model.policy.optimizer.state[mine], loaded.policy.optimizer.state[theirs]
        if mine.dim() > 1 and states[0]:
            assert torch.equal(states[0]["v"], states[1]["v"])
    after = model.policy.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in after)
    loaded.learn(64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": 0}, "lr"),
        ({"weight_decay": -1}, "weight_decay"),
        ({"weight_decay": math.nan}, "weight_decay must be .*, got nan"),
        ({"weight_decay": math.inf}, "weight_decay must be .*, got inf"),
        ({"g_lr_scale": 0}, "g_lr_scale"),
    ],
)
def test_groups_refuse_numbers_out_of_range(arguments, message):
    with pytest.raises(UsageError, match=message):
        param_groups(mlp(), **{"lr": 0.1, **arguments})


class Zoo(nn.Module):
    """A network with weights, and with parameters of two axes or more that are none."""

    def __init__(self):
        super().__init__()
        self.positions = nn.Parameter(torch.randn(1, 6, 6))
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.LayerNorm([4, 6, 6])
        self.lora_a = nn.Parameter(torch.randn(2, 144))
        self.lora_b = nn.Parameter(torch.zeros(5, 2))
        self.linear = nn.Linear(144, 5)
        self.lstm = nn.LSTM(5, 2)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(2, 3))
        self.attention = nn.MultiheadAttention(3, 1)

    def forward(self, x):
        x = self.norm(self.conv(x + self.positions)).flatten(1)
        x, _ = self.lstm(self.linear(x) + x @ self.lora_a.T @ self.lora_b.T)
        x = self.normed(x)
        return self.attention(x, x, x)[0]


ZOO_WEIGHTS = {
    "conv.weight",
    "linear.weight",
    "lstm.weight_ih_l0",
    "lstm.weight_hh_l0",
    "attention.in_proj_weight",
    "attention.out_proj.weight",
}


def test_groups_tell_weights_by_the_type_of_their_module():
    torch.manual_seed(0)
    net = Zoo()
    groups = param_groups(net, lr=0.1, weight_decay=0.01)
    names = {parameter: name for name, parameter in net.named_parameters()}
    assert sorted(names.values()) == sorted(names[p] for g in groups for p in g["params"])
    assert {names[p] for g in groups if g["weight_decay"] for p in g["params"]} == ZOO_WEIGHTS
    optimizer = WNAdam(groups)
    assert {names[p] for p, state in optimizer.state.items() if "v" in state} == ZOO_WEIGHTS


def test_what_is_no_weight_is_stepped_on_by_the_base():
    torch.manual_seed(0)
    net = Zoo()
    twin = copy.deepcopy(net)
    ours, plain = WNAdam(param_groups(net, lr=0.1)), torch.optim.Adam(param_groups(twin, lr=0.1))
    train(net, ours, 1, (3, 1, 6, 6))
    train(twin, plain, 1, (3, 1, 6, 6))
    others = dict(twin.named_parameters())
    for name, parameter in net.named_parameters():
        if name not in ZOO_WEIGHTS:
            torch.testing.assert_close(parameter, others[name], msg=name)


@pytest.mark.parametrize("steps", [0, 2])
def test_parameters_without_their_module_are_no_weights_if_their_numbers_are_equal_at_first(steps):
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.LayerNorm([4, 4, 4]))
    optimizer = WNSGD(net.parameters(), lr=0.1)
    train(net, optimizer, steps, (2, 1, 6, 6))
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    _, optimizer = copy.deepcopy((net, optimizer))
    train(net, optimizer, 1, (2, 1, 6, 6))
    shapes = [w.shape for w, state in optimizer.state.items() if "v" in state]
    assert shapes == [net[0].weight.shape]


def test_a_parameter_of_two_modules_is_a_weight_wherever_it_stands():
    net = nn.Sequential(nn.Linear(3, 2))
    net.alias = net[0].weight
    groups = param_groups(net, lr=0.1, weight_decay=0.01)
    assert [p is net[0].weight for g in groups if g["weight_decay"] for p in g["params"]] == [True]


def test_groups_hold_each_parameter_once_and_decay_only_plain_weights():
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 2))
    convert(net, "weight_mean", skip=("4",))
    groups = param_groups(net, lr=0.1, weight_decay=0.01, g_lr_scale=0.5)
    members = [id(p) for group in groups for p in group["params"]]
    assert sorted(members) == sorted(id(p) for p in net.parameters())
    assert [id(p) for g in groups if g["weight_decay"] for p in g["params"]] == [id(net[4].weight)]
    assert [g["params"][0].shape for g in groups if g["lr"] == 0.05] == [(5, 1)]


@pytest.mark.parametrize("optimizer", [WNSGD, WNAdam])
def test_the_first_direction_of_a_zero_row_is_that_of_steepest_descent(optimizer):
    net = mlp()
    nn.init.zeros_(net[2].weight)
    net[0].weight.data[1] = 0
    optimizer = optimizer(param_groups(net, lr=1e-2))
    train(net, optimizer, 1, (4, 3))
    for w, rows in ((net[0].weight, [1]), (net[2].weight, [0, 1])):
        for row in rows:
            if w.grad[row].any():
                cosine = torch.cosine_similarity(w[row], -w.grad[row], dim=0)
                torch.testing.assert_close(cosine, torch.tensor(1.0))
            else:  # behind a head of zeros: it waits
                assert not w[row].any()
    train(net, optimizer, 2, (4, 3))
    assert net[0].weight[1].any()
    assert all(w.isfinite().all() for w in net.parameters())


def test_a_row_that_is_zeroed_between_two_steps_takes_a_new_direction():
    net = mlp()
    optimizer = WNSGD(net.parameters(), lr=1e-2)
    train(net, optimizer, 2, (4, 3))
    with torch.no_grad():
        net[2].weight[0].zero_()
    train(net, optimizer, 1, (4, 3))
    cosine = torch.cosine_similarity(net[2].weight[0], -net[2].weight.grad[0], dim=0)
    torch.testing.assert_close(cosine, torch.tensor(1.0))


def test_a_write_through_data_is_followed():
    net = mlp()
    optimizer = WNSGD(net.parameters(), lr=1e-6)
    train(net, optimizer, 1, (4, 3))
    net[0].weight.data.mul_(2)
    expected = net[0].weight.detach().clone()
    train(net, optimizer, 1, (4, 3))
    torch.testing.assert_close(net[0].weight, expected, atol=1e-5, rtol=0)


def test_an_emptied_state_starts_anew_as_torchs_does():
    net, twin = mlp(), mlp()
    optimizer = WNAdam(net.parameters(), lr=1e-2)
    train(net, optimizer, 3, (4, 3))
    twin.load_state_dict(net.state_dict())
    optimizer.state.clear()
    train(net, optimizer, 3, (4, 3))
    train(twin, WNAdam(twin.parameters(), lr=1e-2), 3, (4, 3))
    assert difference(net, twin, (4, 3)) == 0


def test_parameters_that_join_a_group_are_stepped_on():
    net = mlp()
    optimizer = WNAdam(net.parameters())
    train(net, optimizer, 3, (4, 3))
    net.append(nn.Linear(2, 3))
    optimizer.param_groups[0]["params"] += net[3].parameters()
    before = net[3].weight.detach().clone()
    train(net, optimizer, 1, (4, 3))
    assert not torch.equal(net[3].weight, before)
    assert optimizer.state_dict()["state"][4]["v_state"]["step"] == 1


@pytest.mark.parametrize("key", ["v", "g", "v_state", "g_state"])
def test_every_state_is_checked_before_anything_is_loaded(key):
    net = mlp()
    optimizer, other = WNAdam(net.parameters()), WNAdam(mlp().parameters(), lr=0.5)
    train(net, optimizer, 1, (4, 3))
    state = other.state_dict()
    del state["state"][2][key]
    with pytest.raises(UsageError, match="parameter 2 has no v and g"):
        optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["lr"] == 1e-3
    assert optimizer.state_dict()["state"][0]["v_state"]["step"] == 1


def test_a_loaded_state_is_a_copy():
    net = mlp()
    optimizer = WNAdam(net.parameters())
    train(net, optimizer, 2, (4, 3))
    twin = copy.deepcopy(net)
    loaded = WNAdam(twin.parameters())
    loaded.load_state_dict(optimizer.state_dict())
    train(net, optimizer, 2, (4, 3))
    train(twin, loaded, 2, (4, 3))
    assert difference(net, twin, (4, 3)) == 0


def test_a_complex_weight_is_refused_unless_its_group_says_so():
    weights = [nn.Parameter(torch.randn(3, 2, dtype=torch.complex64))]
    with pytest.raises(UsageError, match=r"must be real, got torch\.complex64"):
        WNAdam(weights)
    WNAdam([{"params": weights, "weight_norm": False}])


@pytest.mark.parametrize(
    "base", [torch.optim.LBFGS, torch.optim.Adagrad, torch.optim.NAdam, WNAdam]
)
def test_any_other_base_is_refused_with_the_list(base):
    known = f"SGD, Adam, AdamW, Adamax, RMSprop, got {base.__name__}$"
    with pytest.raises(UsageError, match=known):
        weight_normalized(base)


@pytest.mark.parametrize(("ours", "plain", "_options"), PAIRS)
def test_each_base_has_one_optimizer(ours, plain, _options):
    assert weight_normalized(plain) is ours
    assert ours.__name__ == f"WN{plain.__name__}"
    assert issubclass(ours, plain)


def test_what_others_write_into_a_group_stays():
    net = mlp()
    optimizer = WNAdam(net.parameters())
    optimizer.param_groups[0]["counter"] = 7
    train(net, optimizer, 2, (4, 3))
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.param_groups[0]["counter"] == 7
    assert optimizer.param_groups[0]["params"] == list(net.parameters())


def test_a_step_without_any_gradient_changes_nothing():
    net = mlp()
    optimizer = WNAdam(net.parameters())
    optimizer.step()
    assert difference(net, mlp(), (4, 3)) == 0


def test_a_state_without_the_options_of_its_groups_takes_those_of_the_optimizer():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.LayerNorm([4, 4, 4]))
    optimizer = WNAdam(net.parameters())
    train(net, optimizer, 2, (2, 1, 6, 6))
    saved = optimizer.state_dict()
    for option in ("plain", "v_init_std", "weight_norm", "transposed", "g_lr_scale"):
        del saved["param_groups"][0][option]
    twin = copy.deepcopy(net)
    loaded = WNAdam([{"params": [*twin.parameters()], "plain": [2, 3]}])
    loaded.load_state_dict(saved)
    train(net, optimizer, 2, (2, 1, 6, 6))
    train(twin, loaded, 2, (2, 1, 6, 6))
    assert difference(net, twin, (2, 1, 6, 6)) == 0


@pytest.mark.parametrize("kind", [WNSGD, WNAdam, WNAdamW, WNAdamax, WNRMSprop])
@pytest.mark.parametrize("name", ["lr", "weight_decay", "g_lr_scale", "transposed", "v_init_std"])
def test_true_and_false_are_no_numbers_of_a_group(kind, name):
    optimizer = kind(mlp().parameters(), lr=0.1)
    with pytest.raises(UsageError, match=f"^{name} must be .*, got True$"):
        optimizer.add_param_group({"params": [*mlp().parameters()], name: True})
    assert len(optimizer.param_groups) == 1
