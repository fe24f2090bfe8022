import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from wnrl import NORMS, convert, data_init
from wnrl.errors import UsageError
from wnrl.nn import WNLSTM, WNConvTranspose2d, WNLinear
from wnrl.nn.normalizers import Normalized
from wnrl.nn.projection import project_

FREE = ["none", "weight", "weight_mean", "mean", "batch", "batch_renorm", "layer"]
FIXED = ["projected", "spectral"]


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ELU(), nn.Linear(8, 8), nn.ELU(), nn.Linear(8, 3))


def conv_net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 6, 3, groups=2),
        nn.ReLU(),
        nn.ConvTranspose2d(6, 4, 3, groups=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 2),
    )


def data(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)) * 3 + 2


def pre_activations(net, x):
    """What each layer hands to its nonlinearity, or the head to the caller: ``(C, values)``."""
    seen = []
    for child in net:
        x = child(x)
        if isinstance(child, Normalized) or any(True for _ in child.parameters()):
            axis = 1 if x.dim() == 4 else -1
            seen.append(x.detach().movedim(axis, 0).flatten(1))
    return seen


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("init_scale", [1.0, 0.3])
@pytest.mark.parametrize(("build", "shape"), [(mlp, (64, 6)), (conv_net, (16, 4, 8, 8))])
@pytest.mark.parametrize("key", FREE)
def test_every_pre_activation_has_mean_zero_and_the_chosen_deviation(
    key, build, shape, init_scale, training
):
    net = build().train(training)
    convert(net, key)
    report = data_init(net, data(*shape), init_scale=init_scale)
    found = pre_activations(net, data(*shape))
    assert report.initialised == ["0", "2", "4" if build is mlp else "5"]
    assert len(found) == 3
    for values in found:
        torch.testing.assert_close(values.mean(1), torch.zeros(len(values)), atol=2e-3, rtol=0)
        expected = torch.full((len(values),), init_scale)
        torch.testing.assert_close(values.std(1, correction=0), expected, atol=2e-3, rtol=5e-3)


def test_g_and_b_are_those_of_equation_6():
    layer = WNLinear(6, 4, v_init_std=0.05)
    x = data(32, 6)
    t = x @ (layer.weight_v / layer.weight_v.norm(dim=1, keepdim=True)).T
    data_init(nn.Sequential(layer), x, init_scale=0.5)
    std, mean = torch.std_mean(t, 0, correction=0)
    torch.testing.assert_close(layer.weight_g.flatten(), 0.5 / std)
    torch.testing.assert_close(layer.bias, -mean * 0.5 / std)


@pytest.mark.parametrize("scale", ["linear", "exp"])
@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions_with_groups_and_both_scales(groups, scale):
    layer = WNConvTranspose2d(4, 6, 3, groups=groups, scale=scale)
    data_init(nn.Sequential(layer), data(8, 4, 5, 5))
    values = layer(data(8, 4, 5, 5)).transpose(0, 1).flatten(1)
    torch.testing.assert_close(values.mean(1), torch.zeros(6), atol=1e-4, rtol=0)
    torch.testing.assert_close(values.std(1, correction=0), torch.ones(6), atol=1e-4, rtol=0)


def test_the_mean_is_zero_and_the_deviation_what_a_fixed_norm_gives():
    for key in FIXED:
        net = mlp()
        convert(net, key)
        head = "4"
        report = data_init(net, data(64, 6))
        for values in pre_activations(net.eval(), data(64, 6)):
            torch.testing.assert_close(values.mean(1), torch.zeros(len(values)), atol=1e-3, rtol=0)
        fixed = ["0", "2", head] if key == "spectral" else ["0", "2"]
        assert list(report.incomplete) == fixed
        before = net[0].weight.clone()
        project_(net)
        torch.testing.assert_close(net[0].weight, before)


def test_rms_norm_gets_its_deviation_and_says_that_the_mean_stays():
    net = mlp()
    convert(net, "rms")
    report = data_init(net, data(64, 6))
    assert list(report.incomplete) == ["0", "2"]
    for values in pre_activations(net, data(64, 6)):
        expected = torch.ones(len(values))
        torch.testing.assert_close(values.std(1, correction=0), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("key", ["none", "weight", "weight_mean", "batch"])
def test_a_constant_feature_is_named_and_stays_finite(key):
    net = mlp()
    with torch.no_grad():
        net[0].weight[3] = 0
        net[0].weight[5, :2] = torch.tensor([1.0, 1.0])
        net[0].weight[5, 2:] = 0
    convert(net, key)
    x = data(64, 6)
    x[:, :2] = 0.3
    report = data_init(net, x)
    expected = [3, 5] if key in ("none", "batch") else [5]  # a zero row gets a random direction
    assert report.constant == {"0": expected}
    assert all(p.isfinite().all() for p in net.parameters())
    assert net(x).isfinite().all()
    assert pre_activations(net, x)[0][5].abs().max() < 1e-4


def test_recurrent_layers_are_reported_and_left_alone():
    net = nn.ModuleDict({"rnn": WNLSTM(6, 8), "plain": nn.GRU(8, 8), "head": nn.Linear(8, 2)})
    before = copy.deepcopy(net["rnn"].state_dict())

    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return net["head"](net["plain"](net["rnn"](x)[0])[0])

    report = data_init(Chain(), data(5, 4, 6))
    assert report.initialised == ["net.head"]
    assert sorted(report.skipped) == ["net.plain", "net.rnn"]
    assert all(torch.equal(before[k], v) for k, v in net["rnn"].state_dict().items())


def test_a_shared_layer_is_initialised_at_its_first_use():
    torch.manual_seed(0)
    shared = nn.Linear(6, 6)
    net = nn.Sequential(shared, nn.Tanh(), shared)
    report = data_init(net, data(64, 6))
    assert report.initialised == ["0"]
    assert report.incomplete == {"0": "used more than once: standardised at its first use"}
    first = shared(data(64, 6))
    torch.testing.assert_close(first.mean(0), torch.zeros(6), atol=1e-4, rtol=0)
    torch.testing.assert_close(first.std(0, correction=0), torch.ones(6), atol=1e-4, rtol=0)


@pytest.mark.parametrize("key", ["none", "weight"])
def test_layers_that_are_called_by_keyword_are_initialised(key):
    class ByKeyword(nn.Sequential):
        def forward(self, x):
            return self[0](input=x)

    net = ByKeyword(nn.Linear(6, 6))
    convert(net, key)
    assert data_init(net, data(64, 6)).initialised == ["0"]
    torch.testing.assert_close(net(data(64, 6)).mean(0), torch.zeros(6), atol=1e-4, rtol=0)


def test_a_layer_that_shares_its_weight_with_another_is_reported():
    net = mlp()
    net[2].weight = nn.Parameter(net[2].weight.detach())
    twin = nn.Linear(8, 8)
    twin.weight = net[2].weight
    net.insert(3, twin)
    assert data_init(net, data(64, 6)).skipped == {"3": "shares its weight with 2"}


@pytest.mark.parametrize("converted", [False, True])
def test_a_head_tied_to_an_embedding_is_reported_and_left_alone(converted):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9))
    net[2].weight = net[0].weight
    if converted:
        convert(net, "weight")
    before = copy.deepcopy(net[0].state_dict())
    report = data_init(net, torch.arange(9))
    assert report.initialised == ["1"]
    assert report.skipped["2"] == "shares its weight with 0"
    assert all(torch.equal(before[k], v) for k, v in net[0].state_dict().items())


def test_a_layer_tied_to_a_skipped_one_is_left_alone_too():
    net = nn.Sequential(nn.Linear(6, 6), nn.ELU(), nn.Linear(6, 6))
    net[0].weight = net[2].weight
    before = net[2].weight.detach().clone()
    assert data_init(net, data(64, 6), skip=("2",)).skipped == {"0": "shares its weight with 2"}
    assert torch.equal(net[2].weight, before)


def test_a_layer_that_shares_its_bias_with_another_is_reported():
    net = nn.Sequential(nn.Linear(6, 6), nn.ELU(), nn.Linear(6, 6))
    net[2].bias = net[0].bias
    report = data_init(net, data(64, 6))
    assert report.skipped == {"2": "shares its bias with 0"}
    torch.testing.assert_close(net[0](data(64, 6)).mean(0), torch.zeros(6), atol=1e-4, rtol=0)


def test_a_layer_without_a_bias_that_is_used_twice_has_both_reasons():
    shared = nn.Linear(6, 6, bias=False)
    report = data_init(nn.Sequential(shared, nn.Tanh(), shared), data(64, 6))
    assert report.incomplete["0"].startswith("it has no bias: only the deviation was set; used")


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_a_pruned_layer_of_which_nothing_can_be_set_is_left_alone_and_reported(name):
    net = nn.Sequential(nn.Linear(3, 2), nn.ELU(), nn.Linear(2, 2))
    prune.l1_unstructured(net[0], name, 1)
    before = copy.deepcopy(net[0].state_dict())
    report = data_init(net, data(64, 3))
    assert report.initialised == ["2"]
    assert report.skipped == {"0": f"is pruned or parametrized: {name}"}
    assert all(map(torch.equal, net[0].state_dict().values(), before.values()))


def test_what_the_inputs_do_not_reach_is_reported():
    net = nn.ModuleDict({"used": nn.Linear(3, 2), "unused": nn.Linear(3, 2)})
    net.forward = lambda x: net["used"](x)
    report = data_init(net, data(8, 3))
    assert report.initialised == ["used"]
    assert "did not reach" in report.skipped["unused"]


def test_a_skipped_head_keeps_its_gain():
    net = mlp()
    nn.init.orthogonal_(net[4].weight, gain=0.01)
    before = copy.deepcopy(net[4].state_dict())
    report = data_init(net, data(64, 6), skip=("4",))
    assert report.initialised == ["0", "2"]
    assert all(torch.equal(before[k], v) for k, v in net[4].state_dict().items())


def test_a_layer_without_a_bias_says_that_its_mean_stays():
    net = nn.Sequential(nn.Linear(6, 4, bias=False))
    report = data_init(net, data(64, 6))
    assert report.incomplete == {"0": "it has no bias: only the deviation was set"}
    deviation = net(data(64, 6)).std(0, correction=0)
    torch.testing.assert_close(deviation, torch.ones(4), atol=1e-4, rtol=0)


@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("key", ["weight_mean", "mean", "batch", "batch_renorm"])
@pytest.mark.parametrize("training", [True, False])
def test_evaluation_agrees_with_training_on_the_batch_that_was_used(key, placement, training):
    net = mlp().train(training)
    convert(net, key, placement=placement)
    data_init(net, data(64, 6))
    evaluated, trained = net.eval()(data(64, 6)), net.train()(data(64, 6))
    # torch's running variance has n − 1 in the denominator, its batch variance n.
    torch.testing.assert_close(evaluated, trained, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("key", ["batch", "batch_renorm"])
def test_running_statistics_are_those_of_the_batch_in_front_of_and_behind_nonlinearities(key):
    for placement, hidden in (("pre", lambda t: t), ("post", torch.nn.functional.elu)):
        net = mlp().eval()
        convert(net, key, placement=placement)
        data_init(net, data(64, 6), init_scale=3.0)
        first = net[0].layer if placement == "pre" else net[0]
        norm = net[0].norm if placement == "pre" else net[1].norm
        var, mean = torch.var_mean(hidden(first(data(64, 6))), 0, correction=0)
        torch.testing.assert_close(norm.running_mean, mean, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(norm.running_var, var, atol=1e-4, rtol=1e-4)
        assert placement == "pre" or (var - 1).abs().min() > 0.5


class Counted(nn.Linear):
    def get_extra_state(self):
        return {"calls": 3}

    def set_extra_state(self, state):
        assert state == {"calls": 3}


def test_state_that_is_no_tensor_is_kept_by_a_refused_call():
    net = nn.Sequential(nn.Linear(6, 6), Counted(6, 6))
    assert data_init(net, data(8, 6)).initialised == ["0"]
    with pytest.raises(UsageError, match="0 has one"):
        data_init(net, data(1, 6))


@pytest.mark.parametrize(
    ("values", "init_scale"),
    [([-6e4, 6e4], 0.5), ([1000.0, 1001.0], 100.0)],
    ids=["a scale of 8e-6", "a shift of 2e5"],
)
def test_scales_below_and_shifts_beyond_half_precision_are_reported(values, init_scale):
    net = nn.Sequential(nn.Linear(1, 1)).half()
    nn.init.ones_(net[0].weight)
    report = data_init(net, torch.tensor(values).half().unsqueeze(1), init_scale=init_scale)
    assert report.incomplete["0"].startswith("features [0] keep their length")
    assert net[0].weight.item() == 1
    assert net[0].bias.isfinite().all()


def test_a_checkpoint_is_enough_and_nothing_is_repeated():
    net, other = mlp(), mlp()
    convert(net, "weight")
    convert(other, "weight")
    data_init(net, data(64, 6))
    other.load_state_dict(net.state_dict())
    other(data(64, 6) * 100)
    assert torch.equal(other(data(8, 6)), net(data(8, 6)))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (data(1, 6), {}, "one value for each feature, 0 has one"),
        (data(8, 6) * float("nan"), {}, "of 0 that are not finite"),
        (data(8, 6), {"init_scale": 0.0}, "init_scale"),
        (data(8, 6), {"skip": ("head",)}, "'head'"),
    ],
)
def test_a_refused_call_leaves_the_network_as_it_was(x, options, message):
    net = mlp()
    convert(net, "weight")
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(UsageError, match=message):
        data_init(net, x, **options)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


@pytest.mark.parametrize("key", [key for key in NORMS if key != "spectral"])
def test_it_runs_in_half_precision_with_float32_statistics(key):
    net = mlp().bfloat16()
    convert(net, key)
    data_init(net, (data(64, 6) + 100).bfloat16())
    assert all(p.isfinite().all() for p in net.parameters())


BOTH_WORKERS = """
import os, sys, torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from wnrl import convert, data_init
rank, folder = int(os.fork() == 0), sys.argv[1]
distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
torch.manual_seed(rank)  # DDP gives all processes the weights of the first
net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
convert(net, "weight")
net = DistributedDataParallel(net)
report = data_init(net, torch.load(f"{folder}/data.pt")[rank])
torch.save([net.module.state_dict(), report.initialised], f"{folder}/rank{rank}.pt")
distributed.barrier()
os._exit(rank == 0 and os.wait()[1] != 0)  # gloo's threads can abort an orderly exit
"""


def test_two_processes_use_the_statistics_of_both_batches(fresh, tmp_path):
    halves = [data(40, 6)[:24], data(40, 6)[24:] * 2 - 5]
    torch.save(halves, tmp_path / "data.pt")
    fresh(BOTH_WORKERS, tmp_path)
    torch.manual_seed(0)
    alone = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    convert(alone, "weight")
    data_init(alone, torch.cat(halves))
    for rank in (0, 1):
        state, initialised = torch.load(tmp_path / f"rank{rank}.pt")
        assert initialised == ["0", "2"]
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(state[name], value, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("key", FREE)
@pytest.mark.parametrize("magnitude", [1e-30, 1e-25, 1e20, 1e30])
def test_inputs_of_any_magnitude_are_standardised(key, magnitude):
    """Squares of these are zero or infinite in float32."""
    net, x = mlp(), data(64, 6) * magnitude
    convert(net, key)
    report = data_init(net, x)
    assert report.constant == report.incomplete == {}
    for t in pre_activations(net, x):
        torch.testing.assert_close(t.mean(1), torch.zeros(len(t)), atol=1e-4, rtol=0)
        torch.testing.assert_close(t.std(1, correction=0), torch.ones(len(t)), atol=1e-3, rtol=0)


@pytest.mark.parametrize("key", ["none", "weight"])
def test_a_length_that_the_type_cannot_hold_is_reported_and_left(key):
    net = mlp().half()
    convert(net, key)
    before = copy.deepcopy(net)
    report = data_init(net, data(64, 6).half() * 1e-7)
    assert report.incomplete["0"].startswith("features [0, 1, 2, 3, 4, 5, 6, 7] keep their length")
    assert "float16" in report.incomplete["0"]
    for name, value in net[0].state_dict().items():
        assert value.isfinite().all()
        assert name == "bias" or torch.equal(value, before[0].state_dict()[name])


def test_a_lazy_layer_is_refused():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.LazyLinear(2))
    before = net[0].weight.clone()
    with pytest.raises(UsageError, match=r"^2 is lazy"):
        data_init(net, torch.randn(8, 3))
    assert torch.equal(net[0].weight, before)


@pytest.mark.parametrize("norm", ["none", "weight", "batch"])
def test_a_frozen_layer_is_left_alone_and_reported(norm):
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    convert(net, norm)
    net[0].requires_grad_(False)
    before = [p.clone() for p in net[0].parameters()]
    report = data_init(net, torch.randn(20, 3))
    names = [name.removeprefix("layer.") for name, _ in net[0].named_parameters()]
    assert report.skipped == {"0": f"is frozen: {', '.join(names)}"}
    assert report.initialised == ["2"]
    assert all(map(torch.equal, net[0].parameters(), before))


@pytest.mark.parametrize(
    ("norm", "frozen"),
    [
        ("none", ["weight"]),
        ("none", ["bias"]),
        ("weight", ["weight_g", "weight_v"]),
        ("weight", ["weight_v"]),
        ("batch", ["norm.weight", "norm.bias"]),
        ("layer", ["norm.bias"]),
        ("mean", ["layer.weight"]),
    ],
)
def test_a_layer_of_which_a_part_is_frozen_is_left_alone_and_reported(norm, frozen):
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    convert(net, norm)
    for name in frozen:
        nn.init.constant_(net[0].get_parameter(name).requires_grad_(False), 0.5)
    before = copy.deepcopy(net[0].state_dict())
    report = data_init(net.eval(), torch.randn(20, 3))
    names = [name.removeprefix("layer.") for name in frozen]
    assert report.skipped == {"0": f"is frozen: {', '.join(names)}"}
    assert report.initialised == ["2"]
    torch.testing.assert_close(net[0].state_dict(), before, atol=0, rtol=0)


@pytest.mark.parametrize("options", [{"g_rate": 3.0}, {"g_rate": 3.0, "scale": "exp"}])
def test_what_stands_for_g_is_set_to_what_gives_the_deviation(options):
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    convert(net, norm_kwargs=options)
    x = torch.randn(50, 3)
    data_init(net, x)
    torch.testing.assert_close(net(x).std(0, correction=0), torch.ones(2))
