"""Computed weights in the one buffer that cuDNN's recurrences read.

``nn.LSTM`` lays its parameters out in one buffer once. Weights that are computed are new tensors at
every call, for which torch would warn and copy; these are laid out here, once for each time that
they are computed. Inside ``frozen`` that is once for a rollout.
"""

from typing import Any

import torch
from torch import Tensor
from torch.backends.cudnn import rnn

from wnrl.nn.functional import in_transform
from wnrl.nn.sequence import Recurrent


def applies_to(weights: tuple[Tensor, ...]) -> bool:
    """Whether cuDNN would run with these weights."""
    return (
        all(w.is_cuda and w.dtype == weights[0].dtype for w in weights)
        and not torch.compiler.is_compiling()
        and not in_transform()
        and torch.backends.cudnn.is_acceptable(weights[0])
        and torch._use_cudnn_rnn_flatten_weight()
    )


def flatten(weights: tuple[Tensor, ...], layer: Recurrent) -> tuple[Tensor, ...]:
    """The weights as parts of one buffer in cuDNN's own layout; gradients go through."""
    return _Flatten.apply(layer, *weights)  # type: ignore[no-untyped-call]


class _Flatten(torch.autograd.Function):
    """A copy as a value, the identity as a function."""

    @staticmethod
    def forward(ctx: Any, layer: Recurrent, *weights: Tensor) -> tuple[Tensor, ...]:
        # cuDNN's helper points the tensors that it is given at their place in the new buffer:
        # aliases, so that weights and bias parameters stay where they are. Not detach(), which
        # shares the version counter: each call would look like a write into the biases.
        parts = [w.data for w in weights]
        with torch.cuda.device_of(weights[0]):
            torch._cudnn_rnn_flatten_weight(
                parts,
                2 + 2 * layer.bias + (layer.proj_size > 0),
                layer.input_size,
                rnn.get_cudnn_mode(layer.mode),
                layer.hidden_size,
                layer.proj_size,
                layer.num_layers,
                layer.batch_first,
                layer.bidirectional,
            )
        return tuple(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return (None, *grads)
