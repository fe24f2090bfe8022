"""Layers by formula: the modules' outputs, and the gradients that differences have."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.autograd import gradcheck

from wnrl.networks import mlp
from wnrl.population.hot import SHORT
from wnrl.population.layers import ACTIVATIONS, HOT, Layer

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
    tensors = [dict(getattr(net[0], f"named_{which}")()) for net in nets]
    return {
        SHORT.get(name, name.removeprefix("norm.")): torch.stack([t[name] for t in tensors])
        .detach()
        .double()
        for name in tensors[0]
    }


def made(norm, activation):
    nets = networks(norm, activation)
    layer = Layer(norm, activation, EPS.get(norm, 0.0), momentum=0.1)
    if norm == "batch_renorm":
        layer = replace(layer, limits=nets[0][0].norm.limits)
    return nets, layer, stacked(nets, "parameters"), stacked(nets, "buffers")


def copied(tensors):
    return {name: value.clone() for name, value in tensors.items()}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("norm", HOT)
def test_outputs_and_running_statistics_are_those_of_the_modules(norm, activation):
    nets, layer, params, buffers = made(norm, activation)
    for _ in range(3):
        x = torch.randn(N, IN, B, dtype=torch.float64)
        y = layer.forward(params, x, buffers)
        for k, net in enumerate(nets):
            torch.testing.assert_close(y[k].T, net.train()(x[k].T), rtol=1e-10, atol=1e-10)
    for name, value in stacked(nets, "buffers").items():
        torch.testing.assert_close(buffers[name], value)
    acting = layer.acting(params, buffers)
    for k, net in enumerate(nets):
        torch.testing.assert_close(acting(x)[k].T, net.eval()(x[k].T), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("activation", [*ACTIVATIONS, None])
@pytest.mark.parametrize("norm", HOT)
def test_gradients_are_those_of_differences(norm, activation):
    _, layer, params, buffers = made(norm, activation or "tanh")
    layer = copy.copy(layer)
    object.__setattr__(layer, "activation", activation)
    names = list(params)

    class OnTape(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, *values):
            y = layer.forward(dict(zip(names, values, strict=True)), x, copied(buffers))
            ctx.save_for_backward(x, *values)
            return y.clone()

        @staticmethod
        def backward(ctx, d):
            x, *values = ctx.saved_tensors
            given = dict(zip(names, values, strict=True))
            y = layer.forward(given, x, copied(buffers))
            grads = {name: torch.full_like(value, torch.nan) for name, value in given.items()}
            dx = torch.empty_like(x)
            layer.backward(given, x, y, d.clone(), grads, dx)
            return dx, *grads.values()

    x = torch.randn(N, IN, B, dtype=torch.float64)
    inputs = [t.requires_grad_() for t in (x, *params.values())]
    assert gradcheck(OnTape.apply, inputs, eps=1e-6, atol=1e-6)


def test_a_row_without_length_gives_zero_and_no_gradient():
    layer = Layer("weight", None, eps=1e-30)
    params = {"v": torch.zeros(1, 2, 3), "g": torch.zeros(1, 2, 1), "bias": torch.zeros(1, 2)}
    grads = {name: torch.full_like(value, torch.nan) for name, value in params.items()}
    x, d = torch.randn(1, 3, 4), torch.zeros(1, 2, 4)
    y = layer.forward(params, x, {})
    layer.backward(params, x, y, d, grads, None)
    assert y.abs().sum() == 0
    assert all(grad.abs().sum() == 0 for grad in grads.values())
