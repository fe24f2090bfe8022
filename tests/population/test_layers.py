"""Layers by formula: the modules' outputs, and the gradients that differences have."""

from dataclasses import replace

import pytest
import torch
from torch.autograd import gradcheck

from wnrl.networks import mlp
from wnrl.population.backend import _short
from wnrl.population.layers import ACTIVATIONS, HOT, Layer, tanh_

N, IN, OUT, B = 3, 4, 5, 7
EPS = {
    "layer": 1e-5,
    "batch": 1e-5,
    "batch_renorm": 1e-5,
    "weight": 1e-30,
    "weight_mean": 1e-30,
    "rms": torch.finfo(torch.float64).eps,
}
OPENING = {
    "warmup_steps": 1,
    "r_steps": 4,
    "d_steps": 3,
    "r_max": 1.2,
    "d_max": 0.5,
    "momentum": 0.1,
}


def networks(norm, activation):
    nets = []
    for seed in range(N):
        torch.manual_seed(seed)
        options = OPENING if norm == "batch_renorm" else {}
        net = mlp(IN, (OUT,), None, norm=norm, norm_kwargs=options, activation=activation).double()
        for p in net.parameters():
            p.data += 0.3 * torch.randn_like(p)
        if norm == "spectral":  # where σ has no slope in u, which is a constant for the gradient
            net[0].find_vectors()
        nets.append(net)
    return nets


def stacked(nets, which):
    tensors = [_short(dict(getattr(net[0], f"named_{which}")())) for net in nets]
    return {name: torch.stack([t[name] for t in tensors]).detach().double() for name in tensors[0]}


def made(norm, activation):
    """Return networks of one layer and the same layers by formula."""
    nets = networks(norm, activation)
    options = {"limits": nets[0][0].norm.limits} if norm == "batch_renorm" else {}
    numbers = {"params": stacked(nets, "parameters"), "buffers": stacked(nets, "buffers")}
    how = HOT[norm], ACTIVATIONS[activation], EPS.get(norm, 0.0), 0.1
    return nets, Layer(*how, **options, **numbers)


def copied(tensors):
    return {name: value.clone() for name, value in tensors.items()}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("norm", HOT)
def test_outputs_and_running_statistics_are_those_of_the_modules(norm, activation):
    nets, layer = made(norm, activation)
    for _ in range(3):
        x = torch.randn(N, IN, B, dtype=torch.float64)
        y = layer.forward(x)
        for k, net in enumerate(nets):
            torch.testing.assert_close(y[k].T, net.train()(x[k].T), rtol=1e-10, atol=1e-10)
    for name, value in stacked(nets, "buffers").items():
        torch.testing.assert_close(layer.buffers[name], value)
    acting = layer.acting()
    for k, net in enumerate(nets):
        torch.testing.assert_close(acting(x)[k].T, net.eval()(x[k].T), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("activation", [*ACTIVATIONS, None])
@pytest.mark.parametrize("norm", HOT)
def test_gradients_are_those_of_differences(norm, activation):
    layer = replace(made(norm, activation or "tanh")[1], activation=ACTIVATIONS.get(activation))
    names = list(layer.params)

    def bound(values):
        params = dict(zip(names, values, strict=True))
        grads = {name: torch.full_like(value, torch.nan) for name, value in params.items()}
        return replace(layer, params=params, buffers=copied(layer.buffers), grads=grads)

    class OnTape(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, *values):
            ctx.save_for_backward(x, *values)
            return bound(values).forward(x).clone()

        @staticmethod
        def backward(ctx, d):
            x, *values = ctx.saved_tensors
            given, dx = bound(values), torch.empty_like(x)
            given.backward(x, given.forward(x), d.clone(), dx)
            return dx, *given.grads.values()

    x = torch.randn(N, IN, B, dtype=torch.float64)
    inputs = [t.requires_grad_() for t in (x, *layer.params.values())]
    assert gradcheck(OnTape.apply, inputs, eps=1e-6, atol=1e-6)


def test_a_row_without_length_gives_zero_and_no_gradient():
    shapes = {"weight_v": (1, 2, 3), "weight_g": (1, 2, 1), "bias": (1, 2)}
    params, grads = (
        {name: torch.full(shape, value) for name, shape in shapes.items()}
        for value in (0.0, torch.nan)
    )
    layer = Layer(HOT["weight"], None, eps=1e-30, params=params, grads=grads)
    x, d = torch.randn(1, 3, 4), torch.zeros(1, 2, 4)
    y = layer.forward(x)
    layer.backward(x, y, d, None)
    assert y.abs().sum() == 0
    assert all(grad.abs().sum() == 0 for grad in grads.values())


@pytest.mark.parametrize("shape", [(5, 8, 12), (5, 5, 7)])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 2e-7), (torch.float64, 1e-15)])
def test_tanh_is_torchs_and_has_the_same_bits_alone(shape, dtype, error):
    x = 3 * torch.randn(shape, dtype=dtype)
    x[0, 0, :4] = torch.tensor([0.0, 100.0, -100.0, torch.nan])
    y = tanh_(x.clone())
    torch.testing.assert_close(y, x.double().tanh().to(dtype), rtol=0, atol=error, equal_nan=True)
    for k in range(len(x)):
        assert torch.equal(tanh_(x[k : k + 1].clone()).nan_to_num(2), y[k : k + 1].nan_to_num(2))
