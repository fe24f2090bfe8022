"""Weight normalization as pure functions of tensors (Salimans & Kingma 2016, arXiv:1602.07868)."""

import math
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.fx import _symbolic_trace as tracing

from wnrl.arguments import shown
from wnrl.errors import StateError, UsageError, is_real

EPS = 1e-30
"""Default of ``eps``: changes no digit of a row that float32 can square, and keeps 0/0 away."""
ZERO_ROW_STD = 0.05
"""Standard deviation of a v drawn for a row of zeros: the paper's."""
_IN_RANGE = (1e-7, 1e15)
"""Lengths of rows whose squares float32 can sum, and beside which ``EPS`` is no digit."""
_IN_HALF = (1e-2, 1e4)
"""Lengths of rows whose numbers float16 can hold."""


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which numbers are summed: in half precision, 256 + 1 is 256."""
    return torch.promote_types(dtype, torch.float32)


def wide(t: Tensor) -> Tensor:
    """Return ``t`` in float32, or in its own type where that is wider."""
    return t.to(wide_dtype(t.dtype))


def check_real(weight: Tensor) -> None:
    """Raise UsageError for a complex weight: the norms here sum squares."""
    if weight.is_complex():
        raise UsageError(f"a weight must be real, got {weight.dtype}")


def check_deviation(v_init_std: float | None) -> None:
    """Raise UsageError unless ``v_init_std`` is None or gives rows that float32 can square."""
    low, high = _IN_RANGE
    if v_init_std is not None and not (is_real(v_init_std) and low <= v_init_std <= high):
        raise UsageError(f"v_init_std must be None or from {low} to {high}, got {v_init_std!r}")


def check_shape(name: str, value: object, wanted: Iterable[int]) -> None:
    """Raise UsageError unless ``value`` is a tensor of the wanted shape."""
    got = tuple(value.shape) if isinstance(value, Tensor) else shown(value)
    if got != tuple(wanted):
        raise UsageError(f"{name} must have shape {tuple(wanted)}, got {got}")


def refuse_script(layer: nn.Module) -> NoReturn:
    """Raise UsageError: what ``torch.jit.script`` asks of a layer, as ``__prepare_scriptable__``.

    TorchScript ends in its own words where a layer has options, or weights that are computed.
    """
    plain = ", or script wnrl.fold(net)" if hasattr(layer, "to_plain") else ""
    raise UsageError(f"torch.jit.script takes no {type(layer).__name__}: use torch.export{plain}")


def transposed_groups(layer: nn.Module) -> int:
    """Return the number of groups of a transposed convolution, of any kind; 0 for other layers.

    This is the one answer to which axis of a weight counts output units: axis 0, but for
    transposed convolutions, whose weight is ``(in, out / groups, …)``: axis 1, each group apart.
    """
    return layer.groups if getattr(layer, "transposed", False) else 0  # type: ignore[return-value]


def units_first(weight: Tensor, transposed: int) -> Tensor:
    """Return a view of ``weight``, or of what is shaped like it, that begins with the output units.

    Args:
        weight: of a plain layer.
        transposed: what ``transposed_groups`` says of that layer.

    Returns:
        ``(out, in, …)`` as it is; of a transposed convolution ``(groups, out / groups,
        in / groups, …)``.
    """
    return weight.unflatten(0, (transposed, -1)).transpose(1, 2) if transposed else weight


def _over_units(reduce: Callable[..., Tensor], v: Tensor, dim: int, groups: int) -> Tensor:
    """Reduce the numbers of each output unit to one, in the shape that ``row_norm`` returns."""
    if groups <= 1:
        axes = [axis for axis in range(v.dim()) if axis != range(v.dim())[dim]]
        return reduce(v, axes, keepdim=True)
    blocks = v.unflatten(0, (groups, -1))  # (groups, in / groups, out / groups, …)
    return reduce(blocks, [1, *range(3, blocks.dim())], keepdim=True).squeeze(1)


def over_rows(lengths: Tensor, v: Tensor, groups: int = 1) -> Tensor:
    """Return what ``row_norm`` returns, or the like, in a shape that broadcasts to ``v``."""
    return lengths if groups <= 1 else lengths.repeat_interleave(len(v) // groups, 0)


def row_norm(v: Tensor, dim: int = 0, eps: float = EPS, groups: int = 1) -> Tensor:
    """Return sqrt(Σ v² + eps) over all axes of ``v`` but ``dim``, in float32 or wider.

    Args:
        v: directions, at least two axes.
        dim: the axis of the output units.
        eps: added to ‖v‖².
        groups: blocks of axis 0 that are normalized apart (transposed convolutions, ``dim=1``).

    Returns:
        The norms, shaped like ``v`` with 1 in every axis but ``dim``, and ``groups`` in axis 0
        where that is above 1.

    Raises:
        UsageError: ``v`` is complex.
    """
    check_real(v)
    squares = wide(v).square()
    return (_over_units(torch.sum, squares, dim, groups) + eps).sqrt()


def weight_norm(v: Tensor, g: Tensor, dim: int = 0, eps: float = EPS, groups: int = 1) -> Tensor:
    """Return the computed weight g · v / ‖v‖, for every slice of ``v`` along ``dim`` (eq. 2).

    Right to any order of derivative, and usable under ``torch.func``, ``torch.compile`` and
    ``torch.export``. For parameters on a CPU or a GPU it runs torch's fused kernel, without eps.

    Args:
        v: directions, any shape of at least two axes.
        g: lengths, of the shape that ``row_norm`` returns for ``v``.
        dim: the axis of the output units.
        eps: added to ‖v‖², so that a direction which shrinks to nothing gives w = 0.
        groups: blocks of axis 0 that are normalized apart (transposed convolutions, ``dim=1``).

    Returns:
        The computed weight, shape and dtype of ``v``.

    Raises:
        UsageError: ``g`` has another shape; broadcasting would give wrong numbers.
    """
    if type(v) is nn.Parameter and may_fuse(v, g, dim, eps):
        return fused_weight_norm(v, g)
    norms = row_norm(v, dim, eps, groups)
    if g.shape != norms.shape:
        raise UsageError(
            f"g must have one length for each output unit, {tuple(norms.shape)}, of v with shape "
            f"{tuple(v.shape)}; got {tuple(g.shape)}"
        )
    return (v * over_rows(g / norms, v, groups)).to(v.dtype)


class _Fused(torch.autograd.Function):
    """torch's fused kernel for g · v / ‖v‖, without eps, with a backward of any order.

    Its own backward takes ‖v‖ for a constant when it is differentiated again, so gradient penalties
    and curvatures would come out wrong without a word.
    """

    @staticmethod
    def forward(ctx: Any, v: Tensor, g: Tensor) -> Tensor:
        w, norms = torch._weight_norm_interface(v, g, 0)
        ctx.save_for_backward(v, g, norms)
        return w

    @staticmethod
    def backward(ctx: Any, by_w: Tensor) -> tuple[Tensor, Tensor]:
        """Equation 3: by torch's kernel, or where a graph is wanted by what has one."""
        v, g, norms = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return _BACKWARD(by_w.contiguous(), v, g, norms, 0)
        axes = list(range(1, v.dim()))
        norms = v.square().sum(axes, keepdim=True).sqrt()
        by_g = (by_w * v).sum(axes, keepdim=True) / norms
        return g / norms * by_w - g * by_g / norms.square() * v, by_g


_BACKWARD: Any = torch.ops.aten._weight_norm_interface_backward.default._op
fused_weight_norm: Callable[[Tensor, Tensor], Tensor] = super(torch.autograd.Function, _Fused).apply
"""``_Fused.apply`` without its look for transforms, which ``may_fuse`` has had already."""


def may_fuse(v: Tensor, g: Tensor, dim: int, eps: float) -> bool:
    """Return whether torch's fused kernel gives ``weight_norm(v, g)``; no value is looked at.

    The kernel has no eps, so v must have no row where that shows. A parameter has none: they are
    refused or rescaled when it is made, loaded or assigned.
    """
    return (
        dim == 0
        and eps <= EPS
        and (v.is_cpu or v.is_cuda)
        and v.dtype is torch.float32
        and g.dtype is torch.float32
        and not torch.compiler.is_compiling()
        and not in_transform()
        and not torch._C._len_torch_dispatch_stack()  # fake and traced tensors
        and not torch._C._get_tracing_state()  # ONNX's older exporter does not know the kernel
        and forward_ad._current_level < 0  # the kernel has no forward-mode derivative
        and v.is_contiguous()
        and g.is_contiguous()
        and g.numel() == g.size(0) == v.size(0)
        and v.numel() > 0  # the kernel divides by it on a CPU, and launches no block on a GPU
        and g.dim() == v.dim()
    )


def in_transform() -> bool:
    """Return whether a ``torch.func`` transform or a symbolic trace of torch.fx is running."""
    traced = not torch.compiler.is_compiling() and tracing.is_fx_symbolic_tracing()
    return traced or torch._C._functorch.peek_interpreter_stack() is not None


def is_traced() -> bool:
    """Return whether code is compiled, transformed or traced: what is kept is a constant there."""
    transformed = torch.compiler.is_compiling() or in_transform()
    return transformed or torch._C._get_tracing_state() is not None


def in_backward() -> bool:
    """Return whether a backward is running: a forward in it is activation checkpointing's second.

    What it computes must be what the first one did, and it counts for nothing.
    """
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


@torch.library.custom_op("wnrl::hold", mutates_args=())
def hold(t: Tensor) -> Tensor:
    """Return a copy of ``t``, a constant, which compiled code keeps for its backward.

    What is cheap it computes anew there, from buffers that the same forward has overwritten.

    Raises:
        UsageError: a backward is running: activation checkpointing computes it anew.
    """
    if torch._C._current_graph_task_id() != -1:
        raise UsageError(
            "activation checkpointing of compiled code computes anew what batch renormalisation or "
            "spectral norm did, by what has moved: leave out torch.compile or the checkpoint there"
        )
    return t.clone()


@hold.register_fake
def _(t: Tensor) -> Tensor:
    return torch.empty_like(t)


@hold.register_vmap
def _(_: Any, in_dims: tuple[int | None, ...], t: Tensor) -> tuple[Tensor, int | None]:
    return hold(t), in_dims[0]


def same_values(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors are equal, NaN to NaN, or have no values to compare.

    They have none on the meta device, and while a CUDA graph is recorded.
    """
    if a.is_meta or (a.is_cuda and torch.cuda.is_current_stream_capturing()):
        return True
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


def split_weight(
    w: Tensor,
    dim: int = 0,
    eps: float = EPS,
    groups: int = 1,
    v_std: float | None = None,
    fused: bool = True,
) -> tuple[Tensor, Tensor]:
    """Return v = w and g = ‖w‖: the inverse of ``weight_norm``.

    A row of zeros has no direction: it becomes g = 0 with a random v, drawn from a generator of
    its own, so that torch's is left where a plain network would leave it. A row too short or too
    long to be squared becomes a v of about unit length, by a power of two.

    Args:
        w: computed weight.
        dim: the axis of the output units.
        eps: as given to ``weight_norm``.
        groups: as given to ``weight_norm``.
        v_std: None leaves v = w; a number scales every row of v to this root mean square.
        fused: whether w will be computed by torch's kernel, where that is possible.

    Returns:
        v and g, new tensors without graph; ``weight_norm(v, g)`` is ``w``, bit for bit where
        ``v_std`` is None.

    Raises:
        UsageError: w is complex.
    """
    with torch.no_grad():
        v = w.detach().clone()
        zero = zero_rows(v, dim, groups)
        if zero.any():
            generator = torch.Generator().manual_seed(torch.initial_seed() % 2**63)
            noise = torch.randn(v.shape, generator=generator, dtype=torch.float32)
            v = torch.where(over_rows(zero, v, groups), (ZERO_ROW_STD * noise).to(v), v)
        lengths = _lengths(v, dim, groups)
        if v_std is None:
            factors = _powers(lengths)
        else:
            factors = v_std * math.sqrt(v.numel() // lengths.numel()) / lengths
        v = (v * over_rows(factors, v, groups)).to(v.dtype)
        norms = row_norm(v, dim, eps, groups)
        if fused and may_fuse(v, norms, dim, eps):
            norms = torch._weight_norm_interface(v, norms, 0)[1]  # another order of the sum
        return v, (norms / factors).masked_fill(zero, 0.0)


def _lengths(v: Tensor, dim: int, groups: int) -> Tensor:
    """Return the lengths of rows of any length, also of those whose squares no float holds."""
    peaks = _peaks(v, dim, groups)
    return peaks * row_norm(v / over_rows(peaks, v, groups), dim, 0.0, groups)


def _powers(norms: Tensor, in_range: tuple[float, float] = _IN_RANGE) -> Tensor:
    """Return powers of two that bring rows of these lengths into range: 1 for most."""
    low, high = in_range
    largest = math.frexp(torch.finfo(norms.dtype).max)[1] - 1
    powers = torch.exp2((-torch.log2(norms).floor()).clamp(max=largest))
    return torch.where((norms < low) | (norms > high), powers, 1.0)


def exchange_eps(
    v: Tensor, g: Tensor, old: float, new: float, dim: int = 0, groups: int = 1, half: bool = False
) -> tuple[Tensor, Tensor]:
    """Return v and g that give with ``new`` as eps the weight that they give with ``old``.

    Both stay bit for bit where the two make no difference, but for rows of v that are too short or
    too long to be squared: they get about unit length, by a power of two.

    Args:
        v: directions, with one in each row.
        g: lengths, of the shape that ``row_norm`` returns.
        old: added to ‖v‖² where the two come from.
        new: added to ‖v‖² where they go to.
        dim: the axis of the output units.
        groups: as given to ``weight_norm``.
        half: whether v, which is wider, will be rounded to float16.
    """
    norms = _lengths(v, dim, groups)
    powers = _powers(norms, _IN_HALF if half else _IN_RANGE)
    scaled = norms * powers
    ratio = _hypot(scaled, new) / scaled * (norms / _hypot(norms, old))
    return (v * over_rows(powers, v, groups)).to(v.dtype), (g * ratio).to(g.dtype)


def _hypot(norms: Tensor, eps: float) -> Tensor:
    return torch.hypot(norms, torch.full_like(norms, math.sqrt(eps)))


def zero_rows(v: Tensor, dim: int = 0, groups: int = 1) -> Tensor:
    """Return where all of a unit's weights are zero; bool, of the shape that ``row_norm`` has."""
    return _peaks(v, dim, groups) == 0


def _peaks(v: Tensor, dim: int, groups: int) -> Tensor:
    """Return the largest absolute value of each row, of the shape that ``row_norm`` returns."""
    return _over_units(torch.amax, v.abs(), dim, groups)


def check_directions(v: Tensor, name: str, dim: int = 0, groups: int = 1) -> None:
    """Raise StateError naming ``name`` if ``v`` has an empty axis or a row without direction."""
    if v.numel() == 0:
        raise StateError(f"{name} must have no empty dimension, got shape {tuple(v.shape)}")
    if v.is_meta:
        return
    zero = zero_rows(v, dim, groups).flatten()
    if zero.any():
        first = int(zero.nonzero()[0])
        raise StateError(
            f"{name} must have a direction for every output unit, got {int(zero.sum())} of "
            f"{zero.numel()} rows with nothing but zeros (the first: {first}); a unit that starts "
            "at zero is g = 0 with any v other than zero"
        )
