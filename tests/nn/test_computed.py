import copy
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from tests.nn.cases import CASES
from wnrl import nn as wn
from wnrl.errors import UsageError
from wnrl.nn.computed import ComputedWeight

INITIALISERS = {
    "orthogonal_": nn.init.orthogonal_,
    "xavier_uniform_": nn.init.xavier_uniform_,
    "xavier_normal_": nn.init.xavier_normal_,
    "kaiming_uniform_": nn.init.kaiming_uniform_,
    "kaiming_normal_": nn.init.kaiming_normal_,
    "uniform_": nn.init.uniform_,
    "normal_": nn.init.normal_,
    "trunc_normal_": nn.init.trunc_normal_,
    "ones_": nn.init.ones_,
    "zeros_": nn.init.zeros_,
    "eye_": nn.init.eye_,
    "sparse_": lambda w: nn.init.sparse_(w, 0.4),
    "constant_": lambda w: nn.init.constant_(w, 0.3),
}


@pytest.mark.parametrize("name", INITIALISERS)
def test_every_initialiser_takes_effect(name):
    layer, plain = wn.WNLinear(5, 7), nn.Linear(5, 7)
    for target in (plain, layer):
        torch.manual_seed(3)
        INITIALISERS[name](target.weight)
    assert torch.equal(layer.weight, plain.weight)
    assert torch.equal(
        layer(torch.eye(5)), nn.functional.linear(torch.eye(5), plain.weight, layer.bias)
    )


def test_dirac_takes_effect_on_a_convolution():
    layer, plain = wn.WNConv2d(4, 6, 3), nn.Conv2d(4, 6, 3)
    for target in (plain, layer):
        nn.init.dirac_(target.weight)
    assert torch.equal(layer.weight, plain.weight)


@pytest.mark.parametrize("name", CASES)
def test_an_initialiser_reaches_every_weight_of_every_layer(name):
    case = CASES[name]
    layer = case.build()
    for weight in layer.computed:
        nn.init.constant_(getattr(layer, weight), 0.25)
        expected = case.seen(torch.full_like(layer.compute_weight(weight), 0.25))
        assert torch.equal(layer.compute_weight(weight), expected)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("wrap", [lambda w: w, nn.Parameter], ids=["tensor", "parameter"])
def test_assigning_a_weight_sets_v_and_g(name, wrap):
    case = CASES[name]
    layer = case.build()
    names = [name for name, _ in layer.named_parameters()]
    for weight in layer.computed:
        new = torch.randn_like(layer.compute_weight(weight))
        setattr(layer, weight, wrap(new))
        assert torch.equal(layer.compute_weight(weight), case.seen(new))
    assert [name for name, _ in layer.named_parameters()] == names


@pytest.mark.parametrize(
    "write",
    [
        lambda w: w.data.fill_(0.5),
        lambda w: w.detach().fill_(0.5),
        lambda w: w.data.view(-1).copy_(torch.full((6,), 0.5)),
        lambda w: w.data.t().fill_(0.5),
        lambda w: w.data.__setitem__(slice(None), 0.5),
        lambda w: torch.full((3, 2), 0.5, out=w.data),
        lambda w: torch._foreach_copy_([w.data], [torch.full((3, 2), 0.5)]),
        lambda w: [row.fill_(0.5) for row in w.data.unbind(0)],
    ],
    ids=["data", "detach", "view", "transpose", "index", "out", "foreach", "unbind"],
)
def test_writes_through_views_and_data_take_effect(write):
    layer = wn.WNLinear(2, 3)
    write(layer.weight)
    assert torch.equal(layer.weight, torch.full((3, 2), 0.5))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_weight_is_read_and_written_in_every_mode(mode):
    layer = wn.WNLinear(2, 3)
    with mode():
        assert not layer.weight.requires_grad
        layer.weight[1] = 0.5
        assert torch.equal(layer.weight[1], torch.full((2,), 0.5))
        layer.weight.fill_(0.25)
    assert torch.equal(layer.weight, torch.full((3, 2), 0.25))


def test_a_zero_row_keeps_its_direction():
    layer = wn.WNLinear(2, 3)
    with torch.no_grad():
        layer.weight[1].zero_()
    assert layer.weight_g[1] == 0
    assert torch.count_nonzero(layer.weight_v[1]) == 2


def test_writing_with_grad_raises():
    with pytest.raises(UsageError, match=r"WNLinear\.weight is computed .* torch\.no_grad"):
        wn.WNLinear(2, 3).weight.mul_(2.0)


def test_replacing_the_data_raises():
    with pytest.raises(UsageError, match="no storage to replace"):
        wn.WNLinear(2, 3).weight.data = torch.zeros(3, 2)
    with pytest.raises(UsageError, match=r"WNLinear\.weight .* no storage to replace"):
        wn.WNLinear(2, 3).weight.data.set_(torch.zeros(3, 2))


def test_a_weight_of_another_shape_is_refused():
    layer = wn.WNLinear(2, 3)
    with pytest.raises(UsageError, match=r"must have shape \(3, 2\), got \(2, 3\)"):
        layer.weight = torch.zeros(2, 3)


def step_fused(layer):
    for p in layer.parameters():
        p.grad = torch.ones_like(p)
    torch.optim.SGD(layer.parameters(), lr=0.1, fused=True).step()


def load(layer):
    layer.load_state_dict({key: value + 1 for key, value in layer.state_dict().items()})


def assign(layer):
    layer.weight = torch.ones(3, 2)


@pytest.mark.parametrize("change", [step_fused, load, assign])
@pytest.mark.parametrize("view", [lambda w: w.data, lambda w: w.data[0]])
def test_a_weight_that_was_read_before_a_change_cannot_undo_it(change, view):
    layer = wn.WNLinear(2, 3)
    old = view(layer.weight)
    old.add_(1)
    change(layer)
    changed = copy.deepcopy(layer.state_dict())
    with pytest.raises(UsageError, match=r"WNLinear\.weight has changed since .* read it again"):
        old.zero_()
    assert all(torch.equal(changed[key], value) for key, value in layer.state_dict().items())


def test_one_reading_takes_several_writes_and_another_weights_writes_between():
    layer = wn.WNLSTM(2, 3)
    by_input, by_state = layer.weight_ih_l0.data, layer.weight_hh_l0.data
    for row in range(12):
        by_input[row], by_state[row] = float(row), float(-row)
    expected = torch.arange(12.0)[:, None]
    assert torch.equal(layer.weight_ih_l0, expected.expand(12, 2))
    assert torch.equal(layer.weight_hh_l0, -expected.expand(12, 3))


@pytest.mark.parametrize("name", CASES)
def test_a_weight_cannot_be_taken_away(name):
    layer = CASES[name].build()
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    for weight in layer.computed:
        with pytest.raises(UsageError, match=rf"{weight} must have shape .* got None"):
            setattr(layer, weight, None)
    assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items())


@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize(
    "change",
    [lambda w, flag: w.requires_grad_(flag), lambda w, flag: setattr(w, "requires_grad", flag)],
)
def test_a_flag_that_would_be_gone_with_the_next_reading_is_refused(change, learns):
    layer = wn.WNLSTM(3, 2).requires_grad_(learns)
    with torch.no_grad(), pytest.raises(UsageError, match="on weight_hh_l0_v and weight_hh_l0_g"):
        change(layer.weight_hh_l0, not learns)
    change(layer.weight_hh_l0.detach(), True)  # a view may have one of its own


@pytest.mark.parametrize(
    "change",
    [lambda *which: prune.l1_unstructured(*which, amount=2), parametrizations.orthogonal],
)
def test_a_weight_whose_v_is_computed_from_something_else_takes_no_values(change):
    layer = wn.WNLinear(5, 7)
    change(layer, "weight_v")
    before = layer.weight_g.clone()
    with pytest.raises(UsageError, match="is pruned or parametrized"):
        nn.init.ones_(layer.weight)
    assert torch.equal(layer.weight_g, before)


def test_a_hook_that_would_be_gone_with_the_next_reading_is_refused():
    layer = wn.WNLinear(3, 2)
    with pytest.raises(UsageError, match="set it on weight_v and weight_g"):
        layer.weight.register_hook(torch.zeros_like)
    weight = layer.compute_weight()
    weight.register_hook(torch.zeros_like)
    weight.sum().backward()
    assert not layer.weight_v.grad.any()


@pytest.mark.parametrize("read", [lambda weight: weight, lambda weight: weight.detach()])
def test_a_computed_weight_becomes_no_parameter(read):
    layer = wn.WNLinear(2, 3)
    with pytest.raises(UsageError, match=r"WNLinear\.weight .* nn\.Parameter\(.*\.clone\(\)\)"):
        nn.Parameter(read(layer.weight))
    assert type(nn.Parameter(layer.weight.detach().clone())) is nn.Parameter


def test_gradients_flow_through_the_weight_that_is_read():
    layer = wn.WNLinear(2, 3)
    layer.weight.square().sum().backward()
    torch.testing.assert_close(layer.weight_g.grad, 2 * layer.weight_g.detach())


def test_what_is_computed_from_the_weight_is_an_ordinary_tensor():
    layer = wn.WNLinear(2, 3)
    with torch.no_grad():
        before = layer.weight.clone()
        result = layer.weight * 2
        result.zero_()
    assert type(result) is Tensor
    assert type(layer.weight @ torch.ones(2)) is Tensor
    assert type(layer.weight.detach().clone()) is Tensor
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda w: pickle.loads(pickle.dumps(w))])
@pytest.mark.parametrize("part", [lambda w: w, lambda w: w.detach(), lambda w: w.detach()[1:]])
def test_a_copied_weight_is_an_ordinary_tensor(copier, part):
    weight = part(wn.WNLinear(2, 3).weight)
    copied = copier(weight)
    assert type(copied) is Tensor
    assert torch.equal(copied, weight)
    assert copied.data_ptr() != weight.data_ptr()
    first, second = copier([weight, weight])
    assert first is second


def test_only_weights_of_layers_and_parameters_count_as_effective_weights():
    layer = wn.WNLinear(2, 3)
    assert isinstance(layer.weight, ComputedWeight)
    assert not isinstance(torch.zeros(1), ComputedWeight)


def test_the_weight_can_be_read_in_compiled_code():
    layer = wn.WNLinear(2, 3)
    compiled = torch.compile(lambda: layer.weight.sum(), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(), layer.weight.sum())
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "compare", [torch.testing.assert_close, lambda a, b: torch.testing.assert_close(b, a)]
)
def test_torchs_comparison_takes_it_beside_a_parameter_or_a_tensor(compare):
    plain = nn.Linear(5, 7)
    layer = wn.WNLinear.from_plain(plain)
    compare(plain.weight, layer.weight)
    compare(plain.weight.detach(), layer.weight)
    compare(layer.weight, layer.weight)
    with pytest.raises(AssertionError, match="not close"):
        compare(plain.weight + 1, layer.weight)
    assert not isinstance(layer.weight, nn.Parameter)


def test_what_numpy_copies_can_be_written_to():
    # A conversion to another type is the reader's own array.
    array = np.asarray(wn.WNLinear(5, 7).weight.detach(), dtype=np.float64)
    array[...] = 0
    assert not array.any()


@pytest.mark.parametrize("view", [lambda w: w.numpy(), np.asarray, lambda w: w[0].numpy()])
def test_numpy_which_writes_without_telling_sees_it_read_only(view):
    layer = wn.WNLinear(5, 7)
    with pytest.raises(ValueError, match="read-only"):
        view(layer.weight.detach())[...] = 0
    copied = view(layer.weight.detach()).copy()
    copied[...] = 0
    assert layer.weight.abs().max() > 0


def test_what_has_a_graph_is_no_value_to_assign():
    layer, weight = wn.WNLinear(3, 2), torch.randn(2, 3, requires_grad=True)
    before = layer.weight_v.clone()
    with pytest.raises(UsageError, match=r"WNLinear\.weight is computed .* not a graph or a tie"):
        torch.func.functional_call(layer, {"weight": weight}, (torch.randn(4, 3),))
    assert torch.equal(layer.weight_v, before)
    with torch.no_grad():
        layer.weight = weight
    torch.testing.assert_close(layer.compute_weight(), weight)


def test_the_computed_weight_of_another_layer_ties_nothing_and_is_refused():
    embedding, head = wn.WNEmbedding(5, 3), wn.WNLinear(3, 5, bias=False)
    with pytest.raises(UsageError, match="replace or share these two"):
        head.weight = embedding.weight
    head.weight_v, head.weight_g = embedding.weight_v, embedding.weight_g
    assert torch.equal(head.compute_weight(), embedding.compute_weight())


def test_a_call_with_another_weight_brings_v_and_g_back_bit_for_bit():
    layer, x = wn.WNLinear(3, 2, v_init_std=0.05), torch.randn(4, 3)
    before = [p.clone() for p in layer.parameters()]
    weight = torch.randn(2, 3)
    out = torch.func.functional_call(layer, {"weight": weight}, (x,))
    torch.testing.assert_close(out, nn.functional.linear(x, weight, layer.bias))
    assert all(map(torch.equal, layer.parameters(), before))


def test_a_transform_assigns_no_weight():
    layer, x = wn.WNLinear(3, 2), torch.randn(4, 3)

    def loss(weight):
        return torch.func.functional_call(layer, {"weight": weight}, (x,)).sum()

    with pytest.raises(UsageError, match="takes values, not a graph"):
        torch.func.grad(loss)(torch.randn(2, 3))
