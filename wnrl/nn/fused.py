"""torch's fused kernel for g · v / ‖v‖, made safe to differentiate twice.

It is the kernel behind ``torch.nn.utils.parametrizations.weight_norm``. Its backward takes the
saved norms for constants when it is itself differentiated, so gradient penalties and curvatures
come out wrong without a word. Here a hook notices a backward that builds a graph, and puts the
gradients of equation 3 (Salimans & Kingma 2016, arXiv:1602.07868) in the place of the kernel's.
"""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

Gradients = tuple[Tensor | None, ...]


def fused_weight_norm(v: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """The weight w and the norms ‖v‖, for every row of ``v``; rows of zeros give NaN.

    Args:
        v: directions, contiguous, the output units in axis 0.
        g: lengths, shaped like ``v`` with 1 in every axis but the first.
    """
    w, norms = torch._weight_norm_interface(v, g, 0)
    if w.requires_grad:
        # ``w.register_hook(_watch)``, without a dictionary and a handle of its own at each call,
        # which would cost more than the kernel does for a small layer.
        w._backward_hooks = _HOOKS
        w.grad_fn._register_hook_dict(w)  # type: ignore[union-attr]
        w._backward_hooks = None
    return w, norms


def _watch(by_w: Tensor) -> None:
    """Tensor hook on w, called before the kernel's backward runs."""
    if torch.is_grad_enabled():  # create_graph=True
        node: Any = torch._C._current_autograd_node()
        v, g = node._saved_v, node._saved_g

        def replace(by_inputs: Gradients, by_outputs: Gradients) -> Gradients:
            handle.remove()
            assert by_outputs[0] is not None
            exact = _gradients(v, g, by_outputs[0])
            return tuple(
                None if kernels is None else ours
                for kernels, ours in zip(by_inputs, exact, strict=True)
            )

        handle = node.register_hook(replace)


def _gradients(v: Tensor, g: Tensor, by_w: Tensor) -> tuple[Tensor, Tensor]:
    """Equation 3, in operations that can be differentiated again."""
    axes = list(range(1, v.dim()))
    norm = v.square().sum(axes, keepdim=True).sqrt()
    by_g = (by_w * v).sum(axes, keepdim=True) / norm
    return g / norm * by_w - g * by_g / norm.square() * v, by_g


_HOOKS: dict[int, Any] = OrderedDict({0: _watch})
