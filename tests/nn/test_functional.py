import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

from wnrl.errors import UsageError
from wnrl.nn import WNLinear
from wnrl.nn.functional import (
    EPS,
    check_directions,
    row_norm,
    split_weight,
    weight_norm,
    zero_rows,
)

SHAPES = {
    "linear": ((4, 3), 0, 1),
    "conv": ((4, 2, 3), 0, 1),
    "transposed": ((4, 3, 2), 1, 1),
    "transposed-groups": ((4, 3, 2), 1, 2),
}
every_shape = pytest.mark.parametrize(("shape", "dim", "groups"), SHAPES.values(), ids=SHAPES)


def random_pair(shape, dim, groups, dtype=torch.float64):
    torch.manual_seed(0)
    v = torch.randn(shape, dtype=dtype)
    g = torch.rand_like(row_norm(v, dim, EPS, groups)).to(dtype) + 0.5
    return v.requires_grad_(), g.requires_grad_()


@every_shape
def test_first_and_second_derivatives_are_right(shape, dim, groups):
    inputs = random_pair(shape, dim, groups)

    def function(v, g):
        return weight_norm(v, g, dim, EPS, groups)

    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


def test_gradients_are_equations_3_and_4():
    v, g = random_pair((5, 3), 0, 1)
    w = weight_norm(v, g)
    by_w = torch.randn_like(w)
    by_v, by_g = torch.autograd.grad(w, (v, g), by_w)
    norm = v.norm(dim=1, keepdim=True)
    expected_g = (by_w * v).sum(1, keepdim=True) / norm
    torch.testing.assert_close(by_g, expected_g)
    torch.testing.assert_close(by_v, g / norm * by_w - g * expected_g / norm**2 * v)
    for row in range(5):
        direction = w[row] / w[row].norm()
        projection = torch.eye(3, dtype=torch.float64) - direction.outer(direction)
        torch.testing.assert_close(by_v[row], g[row] / norm[row] * projection @ by_w[row])


@every_shape
def test_the_gradient_of_v_is_orthogonal_to_each_row_of_v(shape, dim, groups):
    v, g = random_pair(shape, dim, groups)
    (by_v,) = torch.autograd.grad(weight_norm(v, g, dim, EPS, groups).sin().sum(), v)
    along = (v * by_v).detach()
    blocks = along if groups == 1 else along.unflatten(0, (groups, -1))
    kept = (dim,) if groups == 1 else (0, dim + 1)
    dots = blocks.sum([axis for axis in range(blocks.dim()) if axis not in kept])
    torch.testing.assert_close(dots, torch.zeros_like(dots), atol=1e-10, rtol=0)


@every_shape
def test_w_has_the_norms_g(shape, dim, groups):
    v, g = random_pair(shape, dim, groups)
    w = weight_norm(v, g, dim, EPS, groups)
    torch.testing.assert_close(row_norm(w, dim, EPS, groups), g)
    assert row_norm(v, dim, EPS, groups).dim() == v.dim()


NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
ON_A_GPU = pytest.param("cuda", marks=[pytest.mark.gpu, NEEDS_CUDA])


@pytest.mark.parametrize("device", ["cpu", ON_A_GPU])
@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3, 3), (300, 1100)])
def test_the_fused_kernel_agrees_with_the_formula_to_second_order(shape, device):
    v, g = (nn.Parameter(t.to(device)) for t in random_pair(shape, 0, 1, torch.float32))
    by_w = torch.randn(shape, device=device)

    def derivatives(v, g):
        w = weight_norm(v, g)
        first = torch.autograd.grad(w, (v, g), by_w.to(w), create_graph=True)
        second = torch.autograd.grad(sum(d.square().sum() for d in first), (v, g))
        return w, *first, *second

    wide = [t.detach().double().requires_grad_() for t in (v, g)]
    for fused, formula in zip(derivatives(v, g), derivatives(*wide), strict=True):
        torch.testing.assert_close(fused.double(), formula, rtol=1e-4, atol=1e-5)
    assert "Fused" in type(weight_norm(v, g).grad_fn).__name__


@pytest.mark.parametrize("device", ["cpu", ON_A_GPU])
def test_rows_have_their_own_lengths_where_g_is_a_column_of_something(device):
    v, lengths = torch.randn(4, 3, device=device), torch.arange(1.0, 9.0, device=device).view(4, 2)
    v, g = map(nn.Parameter, (v, lengths[:, :1]))
    w = weight_norm(v, g)
    torch.testing.assert_close(row_norm(w), g)
    w.sum().backward()
    assert g.grad.isfinite().all()


@pytest.mark.parametrize("device", ["cpu", ON_A_GPU])
@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (2, 0, 3)])
def test_a_weight_without_a_number_has_gradients(shape, device):
    v = nn.Parameter(torch.ones(shape, device=device))
    g = nn.Parameter(torch.ones(shape[0], *[1] * (len(shape) - 1), device=device))
    w = weight_norm(v, g)
    w.sum().backward()
    assert (w.shape, v.grad.shape) == (shape, shape)
    assert torch.equal(g.grad, torch.zeros_like(g))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_vanishing_direction_gives_zero_and_bounded_gradients(dtype):
    v = torch.zeros(2, 3, dtype=dtype)
    v[0] = 1.0
    v.requires_grad_()
    g = torch.ones(2, 1, dtype=dtype, requires_grad=True)
    w = weight_norm(v, g)
    w.sum().backward()
    assert torch.count_nonzero(w[1]) == 0
    assert v.grad[1].abs().max() <= 1.01 / EPS**0.5
    assert g.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(4,), (1, 1), (1, 3), (4, 3), (1, 4, 1)])
def test_a_length_of_the_wrong_shape_is_refused(shape):
    with pytest.raises(UsageError, match=r"with shape \(4, 3\); got"):
        weight_norm(torch.ones(4, 3), torch.ones(shape))


@pytest.mark.parametrize(
    ("shape", "of_g", "dim", "groups"),
    [
        ((4, 4), (1, 4), 0, 1),
        ((4, 4), (4, 1), 1, 1),
        ((4, 2, 4), (4, 1, 1), 1, 2),
        ((4, 2, 4), (1, 1, 4), 1, 2),
        ((4, 2, 2), (1, 2, 2), 1, 2),
    ],
)
def test_a_length_along_another_axis_is_refused(shape, of_g, dim, groups):
    with pytest.raises(UsageError, match=r"g must have one length for each output unit"):
        weight_norm(torch.randn(shape), torch.ones(of_g), dim, EPS, groups)


def test_eps_is_the_callers():
    v, g = torch.ones(1, 4), torch.ones(1, 1)
    torch.testing.assert_close(weight_norm(v, g, eps=12.0), v / 4)


@every_shape
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_split_weight_is_the_inverse_bit_for_bit(shape, dim, groups, dtype):
    w, _ = random_pair(shape, dim, groups, dtype)
    v, g = split_weight(w, dim, EPS, groups)
    assert torch.equal(v, w)
    assert torch.equal(weight_norm(nn.Parameter(v), g, dim, EPS, groups), w)


@every_shape
def test_split_weight_gives_v_the_asked_deviation(shape, dim, groups):
    w, _ = random_pair(shape, dim, groups)
    v, g = split_weight(w, dim, EPS, groups, v_std=0.05)
    per_unit = v.numel() // g.numel()
    norms = row_norm(v, dim, EPS, groups)
    torch.testing.assert_close(norms, torch.full_like(norms, 0.05 * per_unit**0.5))
    torch.testing.assert_close(weight_norm(v, g, dim, EPS, groups), w)


@every_shape
def test_a_zero_row_gets_a_direction_without_touching_torchs_generator(shape, dim, groups):
    w, _ = random_pair(shape, dim, groups)
    w = w.detach()
    w[:, 1] = 0.0
    if dim == 0:
        w[1] = 0.0
    before = torch.random.get_rng_state()
    v, g = split_weight(w, dim, EPS, groups)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not zero_rows(v, dim, groups).any()
    assert (g == 0).sum() == (1 if dim == 0 else groups)
    assert torch.equal(weight_norm(v, g, dim, EPS, groups), w)


def test_a_vanishing_row_is_reported_with_its_index():
    v = torch.ones(4, 3)
    v[2] = 0.0
    with pytest.raises(UsageError, match=r"enc\.v must .* 1 of 4 rows .*\(the first: 2\)"):
        check_directions(v, "enc.v")


def test_weight_norm_maps_over_stacked_pairs():
    v, g = torch.randn(3, 4, 5), torch.rand(3, 4, 1)
    expected = torch.stack([weight_norm(*pair) for pair in zip(v, g, strict=True)])
    torch.testing.assert_close(torch.vmap(weight_norm)(v, g), expected)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_weight_norm_compiles_into_one_graph_with_gradients(backend):
    v, g = random_pair((4, 3), 0, 1, torch.float32)
    compiled = torch.compile(weight_norm, fullgraph=True, backend=backend)
    expected = torch.autograd.grad(weight_norm(v, g).sin().sum(), (v, g))
    actual = torch.autograd.grad(compiled(v, g).sin().sum(), (v, g))
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e)
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_forward_mode_derivatives_are_those_of_the_formula():
    v, g = (t.detach() for t in random_pair((4, 3), 0, 1, torch.float32))
    by_v, by_g = torch.randn_like(v), torch.randn_like(g)
    _, expected = torch.func.jvp(weight_norm, (v, g), (by_v, by_g))
    with forward_ad.dual_level():
        dual = weight_norm(forward_ad.make_dual(v, by_v), forward_ad.make_dual(g, by_g))
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, expected)


def test_it_is_traced_by_make_fx_and_under_fake_tensors():
    v, g = (t.detach() for t in random_pair((4, 3), 0, 1, torch.float32))
    traced = make_fx(lambda v, g: weight_norm(v, g))(v, g)
    torch.testing.assert_close(traced(2 * v, 3 * g), weight_norm(2 * v, 3 * g))
    with FakeTensorMode() as mode:
        assert weight_norm(mode.from_tensor(v), mode.from_tensor(g)).shape == (4, 3)


def test_third_derivatives_and_those_of_one_argument_are_right():
    def third(dtype, by_v, by_g):
        v, g = (nn.Parameter(t.to(dtype), False) for t in random_pair((4, 3), 0, 1))
        inputs = [t.requires_grad_() for t, wanted in ((v, by_v), (g, by_g)) if wanted]
        value = weight_norm(v, g).pow(4).sum()
        for _ in range(2):
            grads = torch.autograd.grad(value, inputs, create_graph=True)
            value = sum(grad.square().sum() for grad in grads)
        return torch.autograd.grad(value, inputs)

    for wanted in ((True, True), (True, False), (False, True)):
        for fused, formula in zip(
            third(torch.float32, *wanted), third(torch.float64, *wanted), strict=True
        ):
            torch.testing.assert_close(fused.double(), formula, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_gives_the_same_gradients(reentrant):
    layer, x = WNLinear(3, 4), torch.randn(2, 3, requires_grad=True)
    layer(x).square().sum().backward()
    expected = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    checkpoint(layer, x, use_reentrant=reentrant).square().sum().backward()
    assert all(torch.equal(p.grad, e) for p, e in zip(layer.parameters(), expected, strict=True))


def test_checkpointing_can_be_differentiated_twice():
    layer, x = WNLinear(3, 4), torch.randn(2, 3, requires_grad=True)

    def second(run):
        first = torch.autograd.grad(run(x).square().sum(), layer.weight_v, create_graph=True)
        return torch.autograd.grad(first[0].square().sum(), layer.weight_v)[0]

    torch.testing.assert_close(
        second(lambda x: checkpoint(layer, x, use_reentrant=False)), second(layer)
    )


@pytest.mark.parametrize("length", [1e-41, 1e-25, 1e-6, 1e20])
def test_a_row_that_cannot_be_squared_is_split_into_itself(length):
    """1e-41 is no normal number, as weights that decay for long are."""
    w = torch.randn(4, 3)
    w[1] *= length
    v, g = split_weight(w)
    assert torch.equal(weight_norm(nn.Parameter(v), g), w)
    assert torch.equal(weight_norm(v, row_norm(v)), v)


def test_a_complex_weight_is_refused():
    with pytest.raises(UsageError, match=r"must be real, got torch\.complex64"):
        split_weight(torch.randn(2, 2, dtype=torch.complex64))
    with pytest.raises(UsageError, match=r"must be real, got torch\.complex64"):
        weight_norm(torch.randn(2, 2, dtype=torch.complex64), torch.ones(2, 1))


def test_it_agrees_with_torchs_parametrization():
    torch.manual_seed(0)
    plain = nn.utils.parametrizations.weight_norm(nn.Linear(5, 4))
    parts = plain.parametrizations.weight
    torch.testing.assert_close(weight_norm(parts.original1, parts.original0), plain.weight)


@pytest.mark.parametrize(("dim", "groups"), [(0, 1), (1, 2)])
def test_a_row_of_any_length_is_split_at_a_deviation_into_itself(dim, groups):
    w = torch.randn(12, 4, 3)
    for power in range(4):
        w.select(dim, power).mul_(10.0 ** (-8 * power))
    v, g = split_weight(w, dim, groups=groups, v_std=0.05)
    torch.testing.assert_close(weight_norm(v, g, dim, groups=groups), w, atol=0.0, rtol=1e-5)
    assert row_norm(v, dim, groups=groups).min() > 0.05


@pytest.mark.parametrize("dim", [2, -3])
def test_an_axis_that_a_weight_has_not_is_refused(dim):
    with pytest.raises(IndexError, match="out of range"):
        row_norm(torch.ones(2, 3), dim)
