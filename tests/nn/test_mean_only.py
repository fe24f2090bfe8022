import pytest
import torch
from torch import nn

from wnrl.errors import UsageError
from wnrl.nn import MeanOnlyBatchNorm

SHAPES = [(6, 3), (6, 3, 5), (6, 3, 5, 4), (6, 3, 2, 5, 4)]
TORCH = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


@pytest.mark.parametrize("shape", SHAPES)
def test_training_subtracts_the_batch_mean_and_adds_the_bias(shape):
    norm = MeanOnlyBatchNorm(3)
    nn.init.normal_(norm.bias)
    out = norm(torch.randn(shape) + 2)
    torch.testing.assert_close(out.transpose(0, 1).flatten(1).mean(1), norm.bias, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gradient_is_the_centred_one_of_equation_8(shape):
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(shape, dtype=torch.float64)
    MeanOnlyBatchNorm(3).double()(x).backward(upstream)
    axes = [axis for axis in range(len(shape)) if axis != 1]
    torch.testing.assert_close(x.grad, upstream - upstream.mean(axes, keepdim=True))


def test_gradients_of_first_and_second_order_are_right():
    norm = MeanOnlyBatchNorm(3).double()
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(norm, x)
    assert torch.autograd.gradgradcheck(norm, x)


@pytest.mark.parametrize("momentum", [0.1, 0.3, None])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_running_mean_is_that_of_torch_batch_norm(shape, momentum):
    ours, theirs = MeanOnlyBatchNorm(3, momentum=momentum), TORCH[len(shape)](3, momentum=momentum)
    for _ in range(4):
        x = torch.randn(shape) + 1
        ours(x)
        theirs(x)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    ours.eval()
    x = torch.randn(shape)
    view = (1, 3, *[1] * (len(shape) - 2))
    torch.testing.assert_close(ours(x), x - theirs.running_mean.view(view))


def test_evaluation_changes_no_state_and_treats_each_example_alone():
    norm = MeanOnlyBatchNorm(3)
    norm(torch.randn(8, 3) + 1)
    norm.eval()
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    x = torch.randn(8, 3)
    torch.testing.assert_close(norm(x)[:1], norm(x[:1]))
    assert all(torch.equal(before[name], value) for name, value in norm.state_dict().items())


def test_all_buffers_are_floats_named_running():
    buffers = dict(MeanOnlyBatchNorm(3).named_buffers())
    assert sorted(buffers) == ["running_mean", "running_steps"]
    assert all(value.is_floating_point() for value in buffers.values())


def test_a_bf16_input_is_averaged_in_float32():
    norm = MeanOnlyBatchNorm(1)
    x = torch.full((4096, 1), 1.0078125, dtype=torch.bfloat16)
    out = norm(x)
    assert out.dtype == torch.bfloat16
    assert out.abs().max() == 0
    assert norm.running_mean.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_the_statistics_stay_float32_and_go_on_averaging(dtype):
    norm = MeanOnlyBatchNorm(1, momentum=None).to(dtype)
    for step in range(600):
        out = norm(torch.full((2, 1), float(step >= 300), dtype=dtype))
    assert norm.running_steps.item() == 600
    assert norm.running_mean.item() == pytest.approx(0.5)
    assert out.dtype == norm.bias.dtype == dtype
    assert {buffer.dtype for buffer in norm.buffers()} == {torch.float32}


@pytest.mark.parametrize("shape", [(0, 3), (2, 3, 0)])
def test_parameters_have_a_gradient_of_zero_after_an_empty_batch(shape):
    norm = MeanOnlyBatchNorm(3)
    norm(torch.zeros(shape)).sum().backward()
    assert all(torch.equal(p.grad, torch.zeros(3)) for p in norm.parameters())


def test_an_empty_batch_changes_no_statistics():
    norm = MeanOnlyBatchNorm(3)
    norm(torch.randn(8, 3))
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    assert norm(torch.zeros(0, 3)).shape == (0, 3)
    assert all(torch.equal(before[name], value) for name, value in norm.state_dict().items())


@pytest.mark.parametrize("shape", [(2,), (2, 4), (2, 4, 3)])
def test_an_input_of_another_shape_is_an_error_that_shows_it(shape):
    with pytest.raises(UsageError, match=r"3 channels in axis 1, got shape \(2,"):
        MeanOnlyBatchNorm(3)(torch.randn(shape))


@pytest.mark.parametrize("arguments", [{"num_features": 0}, {"num_features": 3, "momentum": 1.5}])
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(UsageError, match=r"got (0|1\.5)"):
        MeanOnlyBatchNorm(**arguments)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_mode_chooses_the_mean_as_in_torch_batch_norm(shape, training):
    """Divided by torch's own factor, batch norm's output is the centred one."""
    x = torch.randn(shape, dtype=torch.float64) + 2
    view = (1, 3, *[1] * (len(shape) - 2))
    axes = [axis for axis in range(len(shape)) if axis != 1]
    ours = MeanOnlyBatchNorm(3).double()
    theirs = TORCH[len(shape)](3).double()
    for norm in (ours, theirs):
        norm(x)
        norm.train(training)
    y = x * 1.5
    var = y.var(axes, correction=0) if training else theirs.running_var
    expected = theirs(y) * (var + theirs.eps).sqrt().view(view)
    torch.testing.assert_close(ours(y), expected)


def test_one_value_for_each_channel_has_no_mean_to_train_on():
    with pytest.raises(UsageError, match=r"one value for each channel, got shape \(1, 3\)"):
        MeanOnlyBatchNorm(3)(torch.randn(1, 3))
    assert MeanOnlyBatchNorm(3).eval()(torch.randn(1, 3)).shape == (1, 3)


def test_reset_running_stats_and_parameters_are_those_of_torch_batch_norm():
    norm, fresh = MeanOnlyBatchNorm(3), MeanOnlyBatchNorm(3)
    for reset in (norm.reset_running_stats, norm.reset_parameters):
        norm(torch.randn(8, 3) + 2)
        reset()
        assert all(map(torch.equal, norm.state_dict().values(), fresh.state_dict().values()))
    nn.init.normal_(norm.bias)
    norm.reset_parameters()
    assert norm.bias.abs().max() == 0


def test_options_are_given_by_name_since_there_is_no_eps():
    with pytest.raises(TypeError):
        MeanOnlyBatchNorm(3, 1e-5)
