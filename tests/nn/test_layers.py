import copy
import inspect
import io
import pickle
import pydoc

import cloudpickle
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from tests.nn.cases import CASES, NORMED, PASTS, out
from wnrl import convert
from wnrl import nn as wn
from wnrl.errors import StateError

# torch's own remark about a plain nn.LSTM as well.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported")
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
every_layer = pytest.mark.parametrize(
    "case", [*CASES.values(), *NORMED.values()], ids=[*CASES, *NORMED]
)
FEED_FORWARD = [key for key in CASES if "lstm" not in key and "gru" not in key]
every_past = pytest.mark.parametrize("past", PASTS, ids=lambda past: past.__name__)


def by_save(layer):
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
    "cloudpickle": lambda layer: pickle.loads(cloudpickle.dumps(layer)),
    "torch.save": by_save,
}


def grads(layer, x):
    layer.zero_grad()
    out(layer(x)).square().sum().backward()
    return {name: p.grad for name, p in layer.named_parameters()}


def assert_same_grads(layer, other, x):
    expected = grads(layer, x)
    for name, grad in grads(other, x).items():
        torch.testing.assert_close(grad, expected[name], msg=lambda m, n=name: f"{n}: {m}")


def assert_compiled_grads(layer, compiled, x):
    found = grads(compiled, x)
    for name, grad in grads(layer, x).items():
        torch.testing.assert_close(found[f"_orig_mod.{name}"], grad, rtol=1e-4, atol=1e-5)


@every_case
def test_a_new_layer_is_torchs_layer_and_leaves_the_generator_where_torch_does(case):
    plain = case.plain()
    drawn = torch.rand(3)
    layer = case.build()
    assert torch.equal(torch.rand(3), drawn)
    assert torch.equal(out(layer(case.input())), out(plain(case.input())))


@every_case
def test_from_plain_and_to_plain_keep_the_function_bit_for_bit(case):
    plain = case.plain().eval()
    layer = case.layer.from_plain(plain)
    back = layer.to_plain()
    x = case.input()
    assert torch.equal(out(layer(x)), out(plain(x)))
    assert torch.equal(out(back(x)), out(plain(x)))
    assert type(back) is type(plain)
    assert not back.training
    assert repr(back) == repr(plain)


@every_case
def test_gradients_are_those_of_the_formula_on_the_plain_layers_gradient(case):
    layer, plain = case.build(), case.plain()
    actual, given = grads(layer, case.input()), grads(plain, case.input())
    for name in layer.computed:
        v, g = layer.pair(name)
        (by_v, by_g) = torch.autograd.grad(layer.compute_weight(name), (v, g), given[name])
        torch.testing.assert_close(actual[f"{name}_v"], by_v)
        torch.testing.assert_close(actual[f"{name}_g"], by_g)
    for name in given.keys() & actual.keys():
        torch.testing.assert_close(actual[name], given[name])


@every_case
def test_scaling_v_leaves_the_output_alone(case):
    layer, x = case.build(), case.input()
    before = out(layer(x))
    with torch.no_grad():
        for name in layer.computed:
            layer.pair(name)[0].mul_(3.7)
    torch.testing.assert_close(out(layer(x)), before)


@every_case
def test_an_exponential_scale_gives_the_same_layer(case):
    if case.kwargs.get("padding_idx") is not None:
        pytest.skip("its padding row is zero, which exp cannot express")
    layer = case.build(scale="exp")
    torch.testing.assert_close(out(layer(case.input())), out(case.plain()(case.input())))
    assert all(p.grad is None or p.grad.isfinite().all() for p in layer.parameters())


@every_case
def test_the_papers_start_draws_v_with_its_deviation_and_a_length_of_one(case):
    layer = case.build(v_init_std=0.05)
    for name in layer.computed:
        v, g = layer.pair(name)
        assert 0.02 < v.std() < 0.1
        expected = torch.ones_like(g)
        if case.kwargs.get("padding_idx") is not None:
            expected[case.kwargs["padding_idx"]] = 0
        assert torch.equal(g, expected)


@every_case
def test_from_plain_with_a_deviation_rescales_v_and_keeps_the_function(case):
    plain = case.plain()
    layer = case.layer.from_plain(plain, v_init_std=0.05)
    torch.testing.assert_close(out(layer(case.input())), out(plain(case.input())))
    for name in layer.computed:
        v, _ = layer.pair(name)
        assert v.square().mean().sqrt().item() == pytest.approx(0.05, rel=1e-4)


@every_layer
@every_past
@pytest.mark.parametrize("how", COPIES)
def test_a_copy_computes_the_same_and_is_independent(case, past, how):
    layer, x = case.build(), case.input()
    past(layer, x)
    copied = COPIES[how](layer)
    before = out(layer(x)).detach().clone()
    assert torch.equal(out(copied(x)), before)
    assert_same_grads(layer, copied, x)
    with torch.no_grad():
        for p in copied.parameters():
            p.add_(1.0)
    assert torch.equal(out(layer(x)), before)
    assert not torch.equal(out(copied(x)), before)


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_of_a_compiled_layer_computes_with_its_own_parameters(how):
    layer = wn.WNLinear(3, 4)
    layer.compile(backend="eager")
    x = torch.randn(2, 3)
    layer(x)
    copied = COPIES[how](layer)
    with torch.no_grad():
        copied.weight_g.mul_(2)
    torch.testing.assert_close(copied(x) - copied.bias, 2 * (layer(x) - layer.bias))


@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
@pytest.mark.parametrize("key", ["weight", "spectral"])
def test_a_layer_that_is_made_complex_is_refused(key):
    net = nn.Sequential(nn.Linear(2, 3))
    convert(net, key)
    with pytest.raises(wn.functional.UsageError, match="weight must be real"):
        net.to(torch.complex64)(torch.randn(1, 2, dtype=torch.complex64))


@every_layer
@every_past
def test_instances_stack_and_run_under_vmap(case, past):
    layers, x = [case.build() for _ in range(3)], case.input()
    for i, layer in enumerate(layers):
        with torch.no_grad():
            for p in layer.parameters():
                p.add_(0.1 * i)
        past(layer, x)
    params, buffers = torch.func.stack_module_state(layers)
    skeleton = copy.deepcopy(layers[0]).to("meta")

    def call(params, buffers):
        return out(torch.func.functional_call(skeleton, (params, buffers), (x,)))

    results = torch.vmap(call)(params, buffers)
    for layer, result in zip(layers, results, strict=True):
        torch.testing.assert_close(result, out(layer(x)))


@every_layer
@every_past
def test_functional_gradients_are_autograds(case, past):
    layer, x = case.build(), case.input()
    past(layer, x)
    params = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(params):
        return out(torch.func.functional_call(layer, params, (x,))).square().sum()

    expected = grads(layer, x)
    for name, grad in torch.func.grad(loss)(params).items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-4, atol=1e-5)


@every_layer
@every_past
def test_every_layer_exports(case, past):
    layer, x = case.build(), case.input()
    past(layer, x)
    exported = torch.export.export(layer, (x,))
    torch.testing.assert_close(out(exported.module()(x)), out(layer(x)))


@pytest.mark.parametrize("name", FEED_FORWARD)
def test_every_feed_forward_kind_compiles_into_one_graph(name):
    case = CASES[name]
    layer, x = case.build(), case.input()
    out(layer(x))
    compiled = torch.compile(copy.deepcopy(layer), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))
    assert_compiled_grads(layer, compiled, x)
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # torch's own use
@pytest.mark.parametrize("name", ["linear", "conv2d", "transposed2d", "embedding"])
def test_inductor_gives_the_output_and_the_gradients_of_eager_mode(name):
    case = CASES[name]
    layer, x = case.build(), case.input()
    compiled = torch.compile(copy.deepcopy(layer), fullgraph=True, backend="inductor")
    torch.testing.assert_close(compiled(x), layer(x))
    assert_compiled_grads(layer, compiled, x)
    torch._dynamo.reset()


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_a_recurrence_with_the_python_backend_compiles_with_grad(name):
    case = CASES[name]
    layer, x = case.build(backend="python"), case.input()
    compiled = torch.compile(copy.deepcopy(layer), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(out(compiled(x)), out(layer(x)))
    assert_compiled_grads(layer, compiled, x)
    torch._dynamo.reset()


@every_case
@every_past
def test_autocast_gives_finite_gradients_near_those_of_float32(case, past):
    layer, x = case.build(), case.input()
    past(layer, x)
    expected = grads(layer, x)
    layer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        result = out(layer(x))
    result.float().square().sum().backward()
    for name, p in layer.named_parameters():
        assert p.grad.dtype == torch.float32
        error = (p.grad - expected[name]).norm()
        assert error <= 0.05 * expected[name].norm() + 0.02, name


@every_case
def test_norms_are_float32_in_a_bfloat16_layer(case):
    layer = case.build().to(torch.bfloat16)
    for name in layer.computed:
        v, g = (p.detach() for p in layer.pair(name))
        w = wn.weight_norm(v.float(), g.float(), layer.unit_axis[0], layer.eps, layer.unit_axis[1])
        assert torch.equal(layer.compute_weight(name), w.to(torch.bfloat16))


@every_case
def test_a_zero_plain_layer_starts_at_zero_with_finite_gradients(case):
    plain = case.plain()
    with torch.no_grad():
        for p in plain.parameters():
            p.zero_()
    state = torch.random.get_rng_state()
    layer = case.layer.from_plain(plain)
    assert torch.equal(torch.random.get_rng_state(), state)
    x = case.input()
    assert torch.equal(out(layer(x)), out(plain(x)))
    for name in layer.computed:
        v, g = layer.pair(name)
        assert torch.count_nonzero(g) == 0
        assert not wn.functional.zero_rows(v, *layer.unit_axis).any()
    (out(layer(x)) - 1).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@every_case
def test_a_pruned_direction_of_zeros_gives_zero_and_finite_gradients(case):
    layer = case.build()
    for name in layer.computed:
        prune.l1_unstructured(layer, f"{name}_v", amount=layer.pair(name)[0].numel())
    (out(layer(case.input())) - 1).square().sum().backward()
    assert all(torch.count_nonzero(layer.compute_weight(name)) == 0 for name in layer.computed)
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@every_case
def test_loading_a_zero_row_names_the_layer(case):
    model = nn.ModuleDict({"part": case.build()})
    state = model.state_dict()
    name = f"part.{model['part'].computed[0]}_v"
    state[name] = torch.zeros_like(state[name])
    with pytest.raises(StateError, match=rf"{name} must have a direction"):
        model.load_state_dict(state)


@every_case
def test_loading_a_length_of_the_wrong_shape_names_the_layer(case):
    model = nn.ModuleDict({"part": case.build()})
    state = model.state_dict()
    name = f"part.{model['part'].computed[0]}_g"
    state[name] = state[name].reshape(-1)
    with pytest.raises(RuntimeError, match=rf"size mismatch for {name}: .* from checkpoint"):
        model.load_state_dict(state)


@every_case
def test_a_state_dict_round_trip_is_exact(case):
    layer, other = case.build(), case.build()
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.5)
    for assign in (False, True):
        other.load_state_dict(layer.state_dict(), assign=assign)
        assert torch.equal(out(other(case.input())), out(layer(case.input())))


@every_case
def test_reset_parameters_draws_what_the_constructor_draws(case):
    layer = case.build()
    with torch.no_grad():
        for p in layer.parameters():
            p.fill_(0.3)
    torch.manual_seed(0)
    layer.reset_parameters()
    for name, p in case.build().named_parameters():
        assert torch.equal(p, layer.get_parameter(name)), name


@every_case
def test_frozen_plain_parameters_stay_frozen(case):
    plain = case.plain().requires_grad_(False)
    layer = case.layer.from_plain(plain)
    assert not any(p.requires_grad for p in layer.parameters())
    assert not any(p.requires_grad for p in layer.to_plain().parameters())


@every_case
def test_data_parallel_replicas_compute_the_same(case):
    layer, x = case.build(), case.input()
    replica = layer._replicate_for_data_parallel()
    for name, p in layer._parameters.items():
        setattr(replica, name, None if p is None else p * 1)
    torch.testing.assert_close(out(replica(x)), out(layer(x)))


def test_a_layer_on_meta_gets_its_values_by_loading():
    layer = wn.WNLinear(3, 4, device="meta")
    source = wn.WNLinear(3, 4)
    layer.load_state_dict(source.state_dict(), assign=True)
    assert torch.equal(layer.weight, source.weight)


def test_an_empty_dimension_is_an_error_that_names_the_layer():
    with pytest.raises(wn.functional.UsageError, match=r"WNLinear\.weight .* got shape \(4, 0\)"):
        wn.WNLinear(0, 4)


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool])
def test_a_type_that_cannot_learn_is_refused(dtype):
    with pytest.raises(wn.functional.UsageError, match=r"^Linear: Only .* of floating point"):
        wn.WNLinear(3, 4, dtype=dtype)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: wn.WNLinear(-1, 4), "in_features"),
        (lambda: wn.WNLinear(3, out_features=-4), "out_features"),
        (lambda: wn.WNConv2d(3, 4, 3, stride=-1), "stride"),
        (lambda: wn.WNConvTranspose1d(3, 4, 3, dilation=-1), "dilation"),
    ],
)
def test_a_size_below_zero_is_refused(make, name):
    with pytest.raises(wn.functional.UsageError, match=f"^{name} must not be negative, got -"):
        make()


def test_a_parameter_of_the_wrong_shape_or_without_direction_is_refused_where_it_is_set():
    layer = wn.WNLinear(2, 3)
    with pytest.raises(wn.functional.UsageError, match=r"weight_g must have shape \(3, 1\)"):
        layer.weight_g = nn.Parameter(torch.ones(3))
    with pytest.raises(wn.functional.UsageError, match=r"WNLinear\.weight_v must have a direction"):
        layer.weight_v = nn.Parameter(torch.zeros(3, 2))
    layer.weight_g.data = torch.ones(3)
    with pytest.raises(wn.functional.UsageError, match="one length for each output unit"):
        layer(torch.ones(2))


def test_a_weight_assigned_to_a_layer_with_a_deviation_is_split_with_it():
    layer = wn.WNLinear(5, 4, v_init_std=0.05)
    layer.weight = nn.init.orthogonal_(torch.empty(4, 5))
    assert layer.weight_v.square().mean().sqrt().item() == pytest.approx(0.05, rel=1e-4)
    torch.testing.assert_close(layer.weight_g, torch.ones(4, 1))


@every_layer
def test_every_layer_names_its_arguments_as_torch_does(case):
    ours, theirs = case.layer.forward, case.layer.plain_type.forward
    assert [*inspect.signature(ours).parameters] == [*inspect.signature(theirs).parameters]
    layer, x = case.build(), case.input()
    assert torch.equal(out(layer(input=x)), out(layer(x)))


def test_a_layer_of_another_type_is_refused():
    with pytest.raises(wn.functional.UsageError, match="must be a Linear, got Conv1d"):
        wn.WNLinear.from_plain(nn.Conv1d(1, 1, 1))


@pytest.mark.parametrize(
    "register",
    [
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
        "register_full_backward_pre_hook",
    ],
)
def test_hooks_that_would_be_lost_are_refused(register):
    plain = nn.Linear(2, 2)
    getattr(plain, register)(lambda *_: None)
    with pytest.raises(wn.functional.UsageError, match="hooks"):
        wn.WNLinear.from_plain(plain)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": "log"}, "scale must be one of linear, exp"),
        ({"v_init_std": 0.0}, "v_init_std must be None or from 1e-07 to 1"),
        ({"v_init_std": 1e-20}, "v_init_std must be None or from 1e-07 to 1"),
        ({"eps": 0.0}, "eps must be above zero"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(wn.functional.UsageError, match=message):
        wn.WNLinear(2, 3, **options)


def test_an_exponential_scale_refuses_a_zero_row():
    plain = nn.Linear(2, 3)
    nn.init.zeros_(plain.weight)
    with pytest.raises(wn.functional.UsageError, match="scale='exp' cannot express"):
        wn.WNLinear.from_plain(plain, scale="exp")


def test_options_show_in_the_repr():
    layer = wn.WNLinear(2, 3, bias=False, scale="exp", v_init_std=0.1, eps=1e-8)
    assert repr(layer) == (
        "WNLinear(in_features=2, out_features=3, bias=False, scale='exp', v_init_std=0.1, "
        "eps=1e-08)"
    )


def test_the_shapes_are_those_of_torchs_weight_norm():
    for case in CASES.values():
        layer = case.build()
        for name in layer.computed:
            plain = nn.utils.parametrizations.weight_norm(case.plain(), name, layer.unit_axis[0])
            length, direction = (
                plain.parametrizations[name].original0,
                plain.parametrizations[name].original1,
            )
            v, g = layer.pair(name)
            assert v.shape == direction.shape
            if layer.unit_axis[1] == 1:
                assert g.shape == length.shape
                torch.testing.assert_close(g, length)


@every_case
def test_the_signature_is_torchs_with_our_options_by_name(case):
    shown = inspect.signature(case.layer).parameters
    torchs = nn.RNNBase if issubclass(case.layer.plain_type, nn.RNNBase) else case.layer.plain_type
    theirs = {n: p for n, p in inspect.signature(torchs).parameters.items() if n != "mode"}
    if case.layer is wn.WNGRU:
        del theirs["proj_size"]
    own = ["scale", "v_init_std", "eps", "g_rate"]
    own = ["backend", *own] if issubclass(torchs, nn.RNNBase) else own
    assert list(shown) == [*theirs, *own]
    untyped = {"device", "dtype"} & shown.keys()  # by torch
    for name, parameter in theirs.items():
        annotation = shown[name].annotation if name in untyped else parameter.annotation
        assert shown[name] == parameter.replace(annotation=annotation)
    assert all(shown[name].kind is inspect.Parameter.KEYWORD_ONLY for name in own)
    text = pydoc.plain(pydoc.render_doc(case.layer))
    assert f"class {case.layer.__name__}(" in text
    assert "v_init_std: float | None = None" in text


@every_case
def test_skip_init_makes_a_layer_to_be_filled(case):
    layer = torch.nn.utils.skip_init(case.layer, *case.args, **case.kwargs)
    layer.load_state_dict(case.build().state_dict())
    torch.testing.assert_close(out(layer(case.input())), out(case.build()(case.input())))


def test_a_class_derived_from_a_layer_shows_its_own_constructor():
    class Square(wn.WNLinear):
        def __init__(self, size: int, *, bias: bool = False) -> None:
            super().__init__(size, size, bias=bias)

    class Named(wn.WNLinear):
        pass

    assert str(inspect.signature(Square)) == "(size: int, *, bias: bool = False)"
    assert inspect.signature(Named) == inspect.signature(wn.WNLinear)
    assert Square(3)(torch.ones(2, 3)).shape == (2, 3)


@every_case
@pytest.mark.parametrize("scale", ["linear", "exp"])
def test_a_rate_multiplies_what_a_step_of_g_does(case, scale):
    if "padding_idx" in case.kwargs and scale == "exp":
        pytest.skip("a row of zeros has no logarithm")
    plain = case.plain()
    one, eight = (case.layer.from_plain(plain, scale=scale, g_rate=rate) for rate in (1.0, 8.0))
    for name in one.computed:
        torch.testing.assert_close(eight.compute_weight(name), one.compute_weight(name))
        for layer in (one, eight):
            with torch.no_grad():
                layer.pair(name)[1].add_(1e-3 if layer is eight else 8e-3)
        torch.testing.assert_close(eight.compute_weight(name), one.compute_weight(name))


def test_a_state_dict_of_another_shape_is_an_error_of_both_kinds():
    assert issubclass(StateError, ValueError)
    assert issubclass(StateError, RuntimeError)
