"""LSTMs and GRUs of many networks at once, over sequences in which episodes begin.

Time is the second axis, behind that of the networks. At each step the states are
``continues * states + given``: zero and what the rollout remembered where a sequence begins, one
and zero within one.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from wnrl.nn.layers import WNRecurrent
from wnrl.nn.normed_lstm import NormedLSTM
from wnrl.nn.recurrence import recurrences
from wnrl.nn.spectral import Spectral
from wnrl.population.layers import tanh_
from wnrl.population.rows import Tensors

Run = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""From inputs ``(n, T, N, F)``, what is added to the states of L layers before each step, ``(n, T,
N, L, S, H)``, and what they are multiplied by before, ``(n, T, N, 1)``, zero at the first step, to
the outputs ``(n, T, N, H)`` and the states at the end, ``(n, N, L, S, H)``."""


class _Called(nn.Module):
    """A function of a recurrent layer, as ``functional_call`` takes it."""

    def __init__(self, function: Callable[..., Any], rnn: nn.Module) -> None:
        super().__init__()
        self.function, self.rnn = function, rnn

    def forward(self, *args: Tensor) -> Any:
        return self.function(self.rnn, *args)


def recurrent(rnn: Any, params: Tensors, buffers: Tensors) -> Run:
    """Return the recurrent layers of networks that are alike, as a function.

    Args:
        rnn: one of them, for its functions and its mode; its values mean nothing.
        params: its parameters, ``(n, *shape)`` by its names.
        buffers: the like.
    """
    tensors = [{f"rnn.{name}": v for name, v in each.items()} for each in (params, buffers)]

    def of_each(function: Callable[..., Any], *args: Tensor) -> Any:
        module = _Called(function, rnn)
        return vmap(lambda p, b, *args: functional_call(module, (p, b), args))(*tensors, *args)

    if isinstance(rnn, NormedLSTM) or rnn.mode != "LSTM":
        return partial(of_each, _unrolled)
    flat = of_each(_weights)

    def run(x: Tensor, given: Tensor, continues: Tensor) -> tuple[Tensor, Tensor]:
        finals = []
        for k in range(len(flat) // 4):
            w_ih, w_hh, b_ih, b_hh = flat[4 * k : 4 * k + 4]
            gates = torch.baddbmm((b_ih + b_hh)[:, None], x.flatten(1, 2), w_ih.transpose(1, 2))
            h, c = given[:, :, :, k].unbind(3)
            x, final = _LSTM.apply(gates.unflatten(1, x.shape[1:3]), w_hh, h, c, continues)  # type: ignore[no-untyped-call]
            finals.append(final)
        return x, torch.stack(finals, 2)

    return run


def _weights(rnn: Any) -> tuple[Tensor, ...]:
    """Return the weights that a recurrent layer computes with, in torch's order."""
    if isinstance(rnn, WNRecurrent | Spectral):
        return tuple(rnn._weights())
    return tuple(getattr(rnn, name) for name in rnn._flat_weights_names)


def _unrolled(rnn: Any, x: Tensor, given: Tensor, continues: Tensor) -> tuple[Tensor, Tensor]:
    """Step a recurrent layer of any kind through time, by its own functions."""
    if isinstance(rnn, NormedLSTM):
        layers = [rnn.recurrence(suffix) for suffix in rnn.suffixes]
    else:
        layers = recurrences(rnn.mode, _weights(rnn), bias=True, projected=False)
    finals = []
    for k, layer in enumerate(layers):
        prepared, outputs = layer.prepare(x), []
        states = given[0, :, k].unbind(1)
        for t in range(len(x)):
            if t > 0:
                states = tuple(
                    torch.addcmul(new, continues[t], old)
                    for new, old in zip(given[t, :, k].unbind(1), states, strict=True)
                )
            states = layer.step(prepared[t], states)
            outputs.append(states[0])
        x = torch.stack(outputs)
        finals.append(torch.stack(states, 1))
    return x, torch.stack(finals, 1)


class _LSTM(torch.autograd.Function):
    """The steps of LSTMs, whose gates are i, f, g and o, forward and backward by formula."""

    @staticmethod
    def forward(
        ctx: Any, given: Tensor, w_hh: Tensor, h_given: Tensor, c_given: Tensor, continues: Tensor
    ) -> tuple[Tensor, Tensor]:
        n, n_steps, n_seq, _ = given.shape
        size = w_hh.shape[2]
        shape = (n, n_steps, n_seq, size)
        gates = given.new_empty(n, n_steps, n_seq, 4, size)
        h_before, c_before, c_tanh, out = (given.new_empty(shape) for _ in range(4))
        transposed = w_hh.transpose(1, 2)
        h = c = given.new_zeros(n, n_seq, size)
        for t in range(n_steps):
            # One network's could be a view, and sums in another order.
            h = torch.addcmul(h_given[:, t], continues[:, t], h)
            c = torch.addcmul(c_given[:, t], continues[:, t], c)
            h_before[:, t], c_before[:, t] = h, c
            z = torch.baddbmm(given[:, t], h, transposed).unflatten(2, (4, size))
            now = gates[:, t]
            torch.sigmoid(z, out=now)
            now[:, :, 2] = tanh_(z[:, :, 2].contiguous())
            i, f, g, o = now.unbind(2)
            c = torch.addcmul(i * g, f, c)
            squashed = tanh_(c.clone())
            c_tanh[:, t] = squashed
            h = o * squashed
            out[:, t] = h
        ctx.save_for_backward(gates, w_hh, h_before, c_before, c_tanh, continues)
        final = torch.stack((h, c), 2)
        ctx.mark_non_differentiable(final)
        return out, final

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        d_out = grads[0]
        gates, w_hh, h_before, c_before, c_tanh, continues = ctx.saved_tensors
        i, f, g, o = gates.unbind(3)
        # What a gradient of h, or of c, is multiplied by, at all steps at once.
        c_by_h = (1 - c_tanh.square()).mul_(o)
        by_c = torch.stack(
            (g * i * (1 - i), c_before * f * (1 - f), i * (1 - g.square())), 3
        )  # (n, T, N, 3, H)
        by_h = c_tanh * o * (1 - o)
        passed = f * continues
        d_gates = torch.empty_like(gates)
        d_h = d_c = torch.zeros_like(d_out[:, 0])
        for t in reversed(range(continues.shape[1])):
            d_h = d_h + d_out[:, t]
            d_c = torch.addcmul(d_c, d_h, c_by_h[:, t])
            now = d_gates[:, t]
            torch.mul(by_c[:, t], d_c[:, :, None], out=now[:, :, :3])
            torch.mul(d_h, by_h[:, t], out=now[:, :, 3])
            if t > 0:
                d_h = torch.bmm(now.flatten(2), w_hh).mul_(continues[:, t])
                d_c = d_c * passed[:, t]
        d_given = d_gates.flatten(3)
        d_w = torch.bmm(d_given.flatten(1, 2).transpose(1, 2), h_before.flatten(1, 2))
        return d_given, d_w, None, None, None
