import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from wnrl import convert
from wnrl.diagnostics import curvature, lanczos, ritz_values
from wnrl.errors import UsageError


def symmetric(eigenvalues):
    values = torch.tensor(eigenvalues, dtype=torch.float64)
    q, _ = torch.linalg.qr(torch.randn(len(values), len(values), dtype=torch.float64))
    return q @ torch.diag(values) @ q.T


def quadratic(eigenvalues):
    """A loss whose Hessian has these eigenvalues, and its parameter."""
    matrix = symmetric(eigenvalues)
    x = nn.Parameter(torch.randn(len(matrix), dtype=torch.float64))
    return lambda: 0.5 * x @ matrix @ x + x.sum(), x


def test_lanczos_finds_every_eigenvalue_of_a_small_matrix():
    matrix = symmetric([-2.0, 0.5, 3.0, 7.0])
    values, shares = ritz_values(
        *lanczos(lambda v: matrix @ v, torch.ones(4, dtype=torch.float64), 4)
    )
    assert values == pytest.approx([-2.0, 0.5, 3.0, 7.0])
    assert shares.sum() == pytest.approx(1.0)


def test_lanczos_ends_where_its_vectors_span_an_invariant_subspace():
    matrix = symmetric([1.0] * 6 + [5.0] * 6)
    start = torch.randn(12, dtype=torch.float64)
    values, _ = ritz_values(*lanczos(lambda v: matrix @ v, start, 12))
    assert values == pytest.approx([1.0, 5.0])


def test_lanczos_of_zero_finds_zero():
    values, shares = ritz_values(*lanczos(torch.zeros_like, torch.ones(5), 5))
    assert values == pytest.approx([0.0])
    assert shares == pytest.approx([1.0])


def test_ritz_values_and_shares_are_a_gauss_quadrature_over_the_spectrum():
    eigenvalues = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0], dtype=torch.float64)
    start = torch.tensor([1.0, 2.0, 3.0, 2.0, 1.0], dtype=torch.float64)
    values, shares = ritz_values(*lanczos(lambda v: eigenvalues * v, start, 3))
    weights = (start / start.norm()) ** 2
    for power in range(6):  # exact up to degree 2 * 3 - 1
        exact = (weights * eigenvalues**power).sum().item()
        assert float(shares @ values**power) == pytest.approx(exact)


def test_the_ends_of_a_large_spectrum_come_first():
    eigenvalues = [*np.linspace(0.0, 1.0, 297), 10.0, 20.0, -5.0]
    loss, x = quadratic(eigenvalues)
    found = curvature(loss, [x], steps=20)
    assert found.largest == pytest.approx(20.0, rel=1e-6)
    assert found.smallest == pytest.approx(-5.0, rel=1e-6)


def test_condition_is_the_largest_eigenvalue_over_the_mean_one():
    eigenvalues = [1.0] * 1990 + [100.0] * 10
    matrix = torch.tensor(eigenvalues, dtype=torch.float64)
    x = nn.Parameter(torch.zeros(2000, dtype=torch.float64))
    found = curvature(lambda: 0.5 * (matrix * x * x).sum(), [x])
    assert found.condition == pytest.approx(100.0 / np.mean(eigenvalues), rel=0.2)


def test_the_error_of_the_condition_is_the_spread_over_first_vectors():
    eigenvalues = torch.tensor([-1.0] * 40 + [0.1] * 350 + [20.0] * 10, dtype=torch.float64)
    x = nn.Parameter(torch.zeros(400, dtype=torch.float64))
    found = [
        curvature(lambda: 0.5 * (eigenvalues * x * x).sum(), [x], seed=seed) for seed in range(200)
    ]
    exact = 20.0 / eigenvalues.abs().mean().item()
    # its inverse, the mean, is what the random vector estimates
    spread = np.std([exact / one.condition for one in found])
    assert np.mean([one.condition_error for one in found]) == pytest.approx(spread, rel=0.15)


def test_condition_of_a_round_bowl_is_one():
    x = nn.Parameter(torch.randn(50))
    found = curvature(lambda: 1.5 * x.square().sum(), [x])
    assert found.largest == pytest.approx(3.0, rel=1e-5)
    assert found.condition == pytest.approx(1.0, rel=1e-5)
    assert found.condition_error < 1e-3


def test_hessian_of_several_tensors_is_one_matrix():
    a, b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1, 1))
    found = curvature(lambda: (a * b).sum(), [a, b])  # eigenvalues 1 and -1
    assert found.largest == pytest.approx(1.0, abs=1e-6)
    assert found.smallest == pytest.approx(-1.0, abs=1e-6)


def dense_hessian(net, loss):
    parameters = dict(net.named_parameters())
    sizes = [p.numel() for p in parameters.values()]

    def of_flat(flat):
        parts = flat.split(sizes)
        values = {
            n: part.view_as(p) for (n, p), part in zip(parameters.items(), parts, strict=True)
        }
        return loss(lambda *args: torch.func.functional_call(net, values, args))

    flat = torch.cat([p.detach().flatten() for p in parameters.values()])
    return torch.autograd.functional.hessian(of_flat, flat)


@pytest.mark.parametrize("norm", ["none", "weight", "layer"])
def test_a_network_has_the_extreme_eigenvalues_of_its_dense_hessian(norm):
    net = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    convert(net, norm)
    x = torch.randn(16, 3, dtype=torch.float64)

    def loss(forward):
        return (forward(x).squeeze(1) - x[:, 0] * x[:, 1]).square().mean()

    exact = torch.linalg.eigvalsh(dense_hessian(net, loss))
    found = curvature(lambda: loss(net), net.parameters(), steps=60)
    assert found.largest == pytest.approx(exact[-1].item(), rel=1e-6)
    assert found.smallest == pytest.approx(exact[0].item(), rel=1e-6)


@pytest.mark.parametrize("norm", ["none", "weight"])
def test_curvature_in_single_precision_is_that_of_double(norm):
    net = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1))
    convert(net, norm)  # float32 on a CPU runs the fused kernel
    x = torch.randn(16, 3)
    single = curvature(lambda: net(x).square().mean(), net.parameters())
    net.double()
    double = curvature(lambda: net(x.double()).square().mean(), net.parameters())
    assert single.largest == pytest.approx(double.largest, rel=1e-3)


@pytest.mark.parametrize("norm", ["none", "weight", "layer"])
def test_recurrent_layers_have_a_curvature(norm):
    net = nn.ModuleDict({"lstm": nn.LSTM(2, 3)}).double()
    convert(net, norm)
    x = torch.randn(4, 2, 2, dtype=torch.float64)

    def loss():
        return net["lstm"](x)[0].square().mean()

    found = curvature(loss, net.parameters(), steps=200)
    # The second difference along any direction lies between the extreme eigenvalues.
    vector = [torch.randn_like(p) for p in net.parameters()]
    values = []
    for step in (-1e-3, 0.0, 1e-3):
        with torch.no_grad():
            for p, v in zip(net.parameters(), vector, strict=True):
                p.add_(step * v)
            values.append(loss().item())
            for p, v in zip(net.parameters(), vector, strict=True):
                p.sub_(step * v)
    second = (values[0] - 2 * values[1] + values[2]) / 1e-6
    square = sum(v.square().sum().item() for v in vector)
    assert found.smallest - 1e-4 <= second / square <= found.largest + 1e-4
    assert found.largest > 1e-3


def test_curvature_leaves_gradients_and_random_numbers_alone():
    loss, x = quadratic([1.0, 2.0, 3.0])
    state = torch.get_rng_state()
    curvature(loss, [x])
    assert x.grad is None
    assert torch.equal(torch.get_rng_state(), state)


def test_curvature_is_the_same_at_every_call():
    loss, x = quadratic(list(np.linspace(1, 9, 40)))
    assert curvature(loss, [x], steps=5) == curvature(loss, [x], steps=5)


def test_curvature_works_where_gradients_are_off():
    loss, x = quadratic([1.0, 4.0])
    with torch.no_grad():
        assert curvature(loss, [x]).largest == pytest.approx(4.0)


def test_a_linear_loss_is_flat():
    x = nn.Parameter(torch.ones(3))
    found = curvature(lambda: x.sum(), [x])
    assert (found.largest, found.smallest, found.condition) == (0.0, 0.0, math.inf)


def test_a_loss_that_is_not_finite_has_no_curvature():
    x = nn.Parameter(torch.full((3,), math.nan))
    found = curvature(lambda: x.pow(3).sum(), [x])
    assert math.isnan(found.largest)
    assert math.isnan(found.condition)


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @once_differentiable
    def backward(ctx, by_output):
        return 2 * ctx.saved_tensors[0] * by_output


TARGET, LENGTHS = torch.tensor([[1, 2]]), (torch.tensor([5]), torch.tensor([2]))


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (lambda x: F.ctc_loss(x.log_softmax(-1)[:, None], TARGET, *LENGTHS), "without a second"),
        (lambda x: Square.apply(x).sum().square(), "that is differentiable once"),
    ],
)
def test_an_operation_without_a_second_derivative_is_told(loss, said):
    x = nn.Parameter(torch.randn(5, 3))
    with pytest.raises(UsageError, match=f"loss has an operation {said}"):
        curvature(lambda: loss(x), [x])


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (lambda x: x, r"loss must be a scalar that depends on the parameters, got shape \(3,\)"),
        (lambda x: torch.ones(()), "loss must be a scalar"),
    ],
)
def test_losses_without_a_meaning_are_refused(loss, said):
    x = nn.Parameter(torch.ones(3))
    with pytest.raises(UsageError, match=said):
        curvature(lambda: loss(x), [x])


def test_parameters_must_be_trained():
    with pytest.raises(UsageError, match="parameters must hold one that needs a gradient"):
        curvature(lambda: torch.ones(()), [nn.Parameter(torch.ones(2), requires_grad=False)])
    with pytest.raises(UsageError, match="steps must be above zero"):
        curvature(lambda: torch.ones(()), [nn.Parameter(torch.ones(2))], steps=0)
