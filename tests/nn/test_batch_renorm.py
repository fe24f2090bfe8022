import copy

import pytest
import torch
from torch import nn

from wnrl.errors import UsageError
from wnrl.nn import BatchRenorm

SHAPES = [
    (nn.BatchNorm1d, (6, 3)),
    (nn.BatchNorm1d, (6, 3, 5)),
    (nn.BatchNorm2d, (6, 3, 5, 4)),
    (nn.BatchNorm3d, (6, 3, 2, 5, 4)),
]


def warm(norm, steps=10**6, mean=0.0, std=1.0):
    """``norm`` with open limits and chosen running statistics."""
    norm.running_steps.fill_(steps)
    norm.running_mean.fill_(mean)
    norm.running_var.fill_(std**2)
    return norm


@pytest.mark.parametrize(("theirs", "shape"), SHAPES)
def test_during_warm_up_training_is_plain_batch_norm(theirs, shape):
    x = torch.randn(shape) * 3 + 2
    torch.testing.assert_close(BatchRenorm(3)(x), theirs(3)(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("theirs", "shape"), SHAPES)
def test_evaluation_is_that_of_batch_norm_with_the_same_statistics(theirs, shape):
    norm, plain = warm(BatchRenorm(3), mean=0.5, std=2).eval(), theirs(3).eval()
    plain.running_mean.fill_(0.5)
    plain.running_var.fill_(4)
    x = torch.randn(shape)
    torch.testing.assert_close(norm(x), plain(x))


@pytest.mark.parametrize(("_theirs", "shape"), SHAPES)
def test_within_the_limits_training_agrees_with_evaluation(_theirs, shape):
    norm = warm(BatchRenorm(3, momentum=0.0, r_max=100.0, d_max=100.0), mean=0.3, std=1.2)
    x = torch.randn(shape)
    torch.testing.assert_close(norm.train()(x), norm.eval()(x), atol=1e-5, rtol=1e-5)


def test_beyond_the_limits_r_and_d_are_clipped():
    norm = warm(BatchRenorm(1, momentum=0.0, eps=1e-12, r_max=3.0, d_max=5.0), std=0.01)
    x = torch.tensor([[9.0], [11.0]])  # mean 10, std 1, so r = 100 and d = 1000
    torch.testing.assert_close(norm(x), torch.tensor([[-1.0 * 3 + 5], [1.0 * 3 + 5]]))


def test_r_and_d_are_clipped_from_below_too():
    norm = warm(BatchRenorm(1, momentum=0.0, eps=1e-12, r_max=3.0, d_max=5.0), mean=2e3, std=100)
    x = torch.tensor([[9.0], [11.0]])  # mean 10, std 1, so r = 0.01 and d = -19.9
    torch.testing.assert_close(norm(x), torch.tensor([[-1.0 / 3 - 5], [1.0 / 3 - 5]]))


@pytest.mark.parametrize("training", [True, False])
def test_a_large_mean_costs_no_more_digits_than_under_batch_norm(training):
    x = torch.randn(256, 3, generator=torch.Generator().manual_seed(0)) + 1e4
    norm, plain = warm(BatchRenorm(3, eps=1e-5), mean=1e4), nn.BatchNorm1d(3)
    plain.running_mean.fill_(1e4)
    norm.train(training), plain.train(training)
    if training:
        norm.running_steps.fill_(0)
    exact = copy.deepcopy(plain).double()(x.double())
    ours, theirs = ((m(x).double() - exact).abs().max().item() for m in (norm, plain))
    assert ours <= 2 * theirs + 1e-6


def test_r_and_d_are_constants_for_the_gradient():
    norm = BatchRenorm(2, momentum=0.0, r_max=100.0, d_max=100.0)
    norm = warm(norm, mean=0.2, std=1.5).double()
    x = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(5, 2, dtype=torch.float64)
    norm(x).backward(upstream)
    twin = x.detach().clone().requires_grad_()
    var, mean = torch.var_mean(twin, 0, correction=0)
    std = (var + norm.eps).sqrt()
    r = std.detach() / (1.5**2 + norm.eps) ** 0.5
    ((twin - mean) / std * r).backward(upstream)
    torch.testing.assert_close(x.grad, twin.grad)


@pytest.mark.parametrize(
    ("steps", "r_limit", "d_limit"), [(100, 1, 0), (150, 2, 5), (200, 3, 5), (1000, 3, 5)]
)
def test_the_limits_open_linearly_after_the_warm_up(steps, r_limit, d_limit):
    norm = warm(
        BatchRenorm(1, momentum=0.0, eps=1e-12, warmup_steps=100, r_steps=200, d_steps=150),
        steps=steps,
        std=0.001,
    )
    high, low = norm(torch.tensor([[11.0], [9.0]])).flatten().tolist()
    assert (high - low) / 2 == pytest.approx(r_limit)
    assert (high + low) / 2 == pytest.approx(d_limit)


def test_running_statistics_move_by_the_momentum_and_count_the_batches():
    norm = BatchRenorm(1, momentum=0.25)
    norm(torch.tensor([[1.0], [3.0]]))  # mean 2, population variance 1
    norm(torch.tensor([[1.0], [5.0]]))  # mean 3, population variance 4
    assert norm.running_mean.item() == pytest.approx(0.75 * 0.5 + 0.25 * 3)
    assert norm.running_var.item() == pytest.approx(0.75 * 1 + 0.25 * 4)
    assert norm.running_steps.item() == 2


def test_without_momentum_the_running_statistics_are_averages_of_all_batches():
    norm = BatchRenorm(1, momentum=None)
    norm(torch.tensor([[1.0], [3.0]]))  # mean 2, population variance 1
    norm(torch.tensor([[1.0], [5.0]]))  # mean 3, population variance 4
    assert norm.running_mean.item() == pytest.approx(2.5)
    assert norm.running_var.item() == pytest.approx(2.5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_the_statistics_stay_float32_and_go_on_counting(dtype):
    norm = BatchRenorm(1)
    norm.running_mean.fill_(1.0001)
    norm.to(dtype)
    assert norm.running_mean.item() == pytest.approx(1.0001, abs=1e-7)
    for _ in range(600):
        out = norm(torch.tensor([[1.0], [3.0]], dtype=dtype))
    assert norm.running_steps.item() == 600
    assert out.dtype == norm.weight.dtype == dtype
    assert {buffer.dtype for buffer in norm.buffers()} == {torch.float32}


@pytest.mark.parametrize("shape", [(0, 3), (2, 3, 0)])
def test_parameters_have_a_gradient_of_zero_after_an_empty_batch(shape):
    norm = BatchRenorm(3)
    norm(torch.zeros(shape)).sum().backward()
    assert all(torch.equal(p.grad, torch.zeros(3)) for p in norm.parameters())


def test_an_empty_batch_changes_no_statistics():
    norm = BatchRenorm(3)
    norm(torch.randn(8, 3))
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    assert norm(torch.zeros(0, 3)).shape == (0, 3)
    assert all(torch.equal(before[name], value) for name, value in norm.state_dict().items())


def test_all_buffers_are_floats_named_running():
    buffers = dict(BatchRenorm(3).named_buffers())
    assert sorted(buffers) == ["running_mean", "running_steps", "running_var"]
    assert all(value.is_floating_point() for value in buffers.values())


def test_two_forwards_before_a_backward_work():
    norm = warm(BatchRenorm(3))
    x = torch.randn(4, 3, requires_grad=True)
    (norm(x) + norm(x + 1)).square().sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"r_max": 0.5}, "r_max must be at least 1"),
        ({"d_max": -1}, "d_max 0"),
        ({"r_max": float("inf")}, "both finite, got inf"),
        ({"d_max": float("nan")}, "both finite, got 3.0 and nan"),
        ({"warmup_steps": 30_000}, "below r_steps and d_steps"),
        ({"momentum": 2}, "momentum"),
        ({"eps": 0}, "eps"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        BatchRenorm(3, **arguments)


def test_training_on_one_example_is_an_error():
    with pytest.raises(UsageError, match=r"one value for each channel, got shape \(1, 3\)"):
        BatchRenorm(3)(torch.randn(1, 3))


@pytest.mark.parametrize("momentum", [0.1, 0.3, None])
@pytest.mark.parametrize(("theirs", "shape"), SHAPES)
def test_running_statistics_are_those_of_torch_batch_norm_but_of_the_population(
    theirs, shape, momentum
):
    norm, plain = BatchRenorm(3, momentum=momentum), theirs(3, momentum=momentum)
    first = plain.running_var.clone()
    n = torch.Size(shape).numel() / 3
    for mode in (True, True, False, True):  # evaluation between batches changes nothing
        x = torch.randn(shape) * 2 + 1
        norm.train(mode)(x)
        plain.train(mode)(x)
    torch.testing.assert_close(norm.running_mean, plain.running_mean)
    # torch keeps n/(n - 1) of the population variance, but counts the initial one as it is.
    kept = 0.0 if momentum is None else (1 - momentum) ** 3
    theirs_of_population = (plain.running_var - kept * first) * (n - 1) / n + kept * first
    torch.testing.assert_close(norm.running_var, theirs_of_population)
    assert norm.running_steps.item() == plain.num_batches_tracked.item() == 3


def test_reset_running_stats_and_parameters_are_those_of_torch_batch_norm():
    norm, fresh = BatchRenorm(3), BatchRenorm(3)
    norm(torch.randn(8, 3) + 2)
    norm.reset_running_stats()
    assert all(map(torch.equal, norm.state_dict().values(), fresh.state_dict().values()))
    norm(torch.randn(8, 3) + 2)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    norm.reset_parameters()
    assert all(map(torch.equal, norm.state_dict().values(), fresh.state_dict().values()))


def test_arguments_by_position_are_those_of_torch_batch_norm():
    ours, theirs = BatchRenorm(3, 1e-3, 0.2), nn.BatchNorm1d(3, 1e-3, 0.2)
    for name in ("num_features", "eps", "momentum"):
        assert getattr(ours, name) == getattr(theirs, name)
    with pytest.raises(TypeError):
        BatchRenorm(3, 1e-3, 0.2, 3.0)
