"""Weight normalization as pure functions of tensors (Salimans & Kingma 2016, arXiv:1602.07868)."""

import math
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from wnrl.errors import UsageError

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def transposed_groups(layer: nn.Module) -> int:
    """The number of groups of a plain transposed convolution; 0 for every other layer."""
    return layer.groups if isinstance(layer, TRANSPOSED) else 0


def units_first(weight: Tensor, groups: int) -> Tensor:
    """A view of ``weight``, or of what is shaped like it, that starts with the output units.

    Args:
        weight: of a plain layer.
        groups: what ``transposed_groups`` says of that layer.

    Returns:
        ``(out, in, …)`` as it is; of a transposed convolution, whose weight is
        ``(in, out / groups, …)``, ``(groups, out / groups, in / groups, …)``.
    """
    return weight.unflatten(0, (groups, -1)).transpose(1, 2) if groups else weight


EPS = 1e-12
"""Default of ``eps``: far below any ‖v‖² in use, so that it changes no digit in float32."""
ZERO_ROW_STD = 0.05
"""Standard deviation of a v drawn for a row of zeros: the paper's."""
# From here on eps is below half a unit in the last place of a float32 ‖v‖².
_NEGLIGIBLE = 2.0**-25
_PLAIN_TENSORS = (torch.nn.Parameter, Tensor)


def row_norm(v: Tensor, dim: int = 0, eps: float = EPS, groups: int = 1) -> Tensor:
    """sqrt(Σ v² + eps) over all axes of ``v`` but ``dim``, in float32 or wider.

    Args:
        v: directions, at least two axes.
        dim: the axis of the output units.
        eps: added to ‖v‖².
        groups: blocks of axis 0 that are normalised apart (transposed convolutions, ``dim=1``).

    Returns:
        The norms, shaped like ``v`` with 1 in every axis but ``dim``, and ``groups`` in axis 0
        where that is above 1.
    """
    if groups > 1:
        blocks = v.unflatten(0, (groups, -1))
        return _norm(blocks, (0, dim % v.dim() + 1), eps).squeeze(1)
    return _norm(v, (dim % v.dim(),), eps)


def _norm(v: Tensor, kept: tuple[int, ...], eps: float) -> Tensor:
    axes = [axis for axis in range(v.dim()) if axis not in kept]
    wide = v.to(torch.promote_types(v.dtype, torch.float32))
    return (wide.square().sum(axes, keepdim=True) + eps).sqrt()


def weight_norm(v: Tensor, g: Tensor, dim: int = 0, eps: float = EPS, groups: int = 1) -> Tensor:
    """The computed weight g · v / ‖v‖, for every slice of ``v`` along ``dim`` (eq. 2).

    Right to any order of derivative, and usable under ``torch.func``, ``torch.compile`` and
    ``torch.export``. On a CPU in float32 it runs torch's fused kernel, which has no eps, wherever
    eps is too small to change a digit: for a small layer that is a third of the formula's time.

    Args:
        v: directions, any shape of at least two axes.
        g: lengths, of the shape that ``row_norm`` returns for ``v``.
        dim: the axis of the output units.
        eps: added to ‖v‖², so that a direction which shrinks to nothing gives w = 0.
        groups: blocks of axis 0 that are normalised apart (transposed convolutions, ``dim=1``).

    Returns:
        The computed weight, shape and dtype of ``v``.

    Raises:
        UsageError: ``g`` has another shape; broadcasting would give wrong numbers.
    """
    size = v.size(dim)
    fits = g.dim() == v.dim() and g.numel() == size * groups and g.size(dim) == size
    if not fits or (groups > 1 and g.size(0) != groups):
        raise UsageError(
            "g must have one length for each output unit and as many axes as v, with shape "
            f"{tuple(v.shape)}; got {tuple(g.shape)}"
        )
    if dim == 0 and groups == 1 and _may_fuse(v, g):
        w, norms = fused_weight_norm(v, g)
        if _eps_is_negligible(norms, eps):
            return w
    if groups > 1:
        blocks = v.unflatten(0, (groups, -1))
        ratio = (g / row_norm(v, dim, eps, groups)).unsqueeze(1)
        return (blocks * ratio).to(v.dtype).flatten(0, 1)
    return (v * (g / row_norm(v, dim, eps))).to(v.dtype)


def in_transform() -> bool:
    """Whether a ``torch.func`` transform (vmap, grad, ...) is running."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def _may_fuse(v: Tensor, g: Tensor) -> bool:
    """Whether the fused kernel takes ``v`` and ``g``, and its norms can be looked at."""
    return (
        v.is_cpu
        and v.dtype is torch.float32
        and g.dtype is torch.float32
        and not torch.compiler.is_compiling()
        and not in_transform()
        and not torch._C._len_torch_dispatch_stack()  # fake and traced tensors have no value
        and forward_ad._current_level < 0  # the kernel has no forward-mode derivative
        and type(v) in _PLAIN_TENSORS
        and v.is_contiguous()
        and v.numel() > 0
    )


def _eps_is_negligible(norms: Tensor, eps: float) -> bool:
    return norms.min().item() > math.sqrt(eps / _NEGLIGIBLE)


def split_weight(
    w: Tensor, dim: int = 0, eps: float = EPS, groups: int = 1, v_std: float | None = None
) -> tuple[Tensor, Tensor]:
    """The inverse of ``weight_norm``: v := w and g := ‖w‖.

    A row of zeros has no direction: it becomes g = 0 with a random v, drawn from a generator of
    its own, so that torch's is left where a plain network would leave it.

    Args:
        w: computed weight.
        dim: the axis of the output units.
        eps: as given to ``weight_norm``.
        groups: as given to ``weight_norm``.
        v_std: None leaves v = w; a number scales every row of v to this root mean square.

    Returns:
        v and g, new tensors without graph; ``weight_norm(v, g)`` is ``w``, bit for bit where
        ``v_std`` is None.
    """
    with torch.no_grad():
        v = w.detach().clone()
        zero = zero_rows(v, dim, groups)
        if zero.any():
            generator = torch.Generator().manual_seed(torch.initial_seed() % 2**63)
            noise = torch.randn(v.shape, generator=generator, dtype=torch.float32)
            v = torch.where(_over_rows(zero, v, groups), (ZERO_ROW_STD * noise).to(v), v)
        if v_std is None:
            return v, _norms_in_use(v, dim, eps, groups).masked_fill(zero, 0.0)
        # Divided by its largest number first, a row has a norm beside which eps is nothing.
        peak = _peaks(v, dim, groups)
        v = v / _over_rows(peak, v, groups)
        norms = row_norm(v, dim, eps, groups)
        std = torch.full_like(norms, v_std * math.sqrt(v.numel() // norms.numel()))
        return weight_norm(v, std, dim, eps, groups), (peak * norms).masked_fill(zero, 0.0)


def _norms_in_use(v: Tensor, dim: int, eps: float, groups: int) -> Tensor:
    """The norms as ``weight_norm`` sums them: the last digit depends on the order of the sum."""
    norms = row_norm(v, dim, eps, groups)
    if dim == 0 and groups == 1 and _may_fuse(v, norms):
        by_kernel = fused_weight_norm(v, norms)[1]
        return by_kernel if _eps_is_negligible(by_kernel, eps) else norms
    return norms


def zero_rows(v: Tensor, dim: int = 0, groups: int = 1) -> Tensor:
    """Where all of a unit's weights are zero; bool, of the shape that ``row_norm`` returns."""
    return _peaks(v, dim, groups) == 0


def _peaks(v: Tensor, dim: int, groups: int) -> Tensor:
    """The largest absolute value of each row, of the shape that ``row_norm`` returns."""
    if groups > 1:
        axes = [axis for axis in range(v.dim() + 1) if axis not in (0, dim + 1)]
        return v.unflatten(0, (groups, -1)).abs().amax(axes, keepdim=True).squeeze(1)
    return v.abs().amax([axis for axis in range(v.dim()) if axis != dim], keepdim=True)


def _over_rows(lengths: Tensor, v: Tensor, groups: int) -> Tensor:
    """What ``row_norm`` returns, or the like, in a shape that broadcasts to ``v``."""
    return lengths if groups == 1 else lengths.repeat_interleave(len(v) // groups, 0)


def check_directions(v: Tensor, name: str, dim: int = 0, groups: int = 1) -> None:
    """Raises UsageError naming ``name`` where ``v`` has an empty axis or a row of zeros."""
    if v.numel() == 0:
        raise UsageError(f"{name} must have no empty dimension, got shape {tuple(v.shape)}")
    if v.is_meta:
        return
    zero = zero_rows(v, dim, groups).flatten()
    if zero.any():
        first = int(zero.nonzero()[0])
        raise UsageError(
            f"{name} must have a direction for every output unit, got {int(zero.sum())} of "
            f"{zero.numel()} rows with nothing but zeros (the first: {first}); a unit that starts "
            "at zero is g = 0 with any v other than zero"
        )


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
