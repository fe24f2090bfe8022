"""Batch renormalization (Ioffe 2017, arXiv:1702.03275)."""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from wnrl.errors import UsageError, check_positive
from wnrl.nn.mean_only import (
    along_channels,
    channel_axes,
    check_momentum,
    rewiden,
    wide_dtype,
)


class BatchRenorm(nn.Module):
    """Batch norm whose training output agrees with the running statistics, within limits.

    ``x̂ = (x − μ_B)/σ_B · r + d`` with ``r = σ_B/σ`` clipped to [1/r_max, r_max] and
    ``d = (μ_B − μ)/σ`` clipped to [−d_max, d_max], both constants for the gradient (Algorithm 1).
    Within the limits the output is ``(x − μ)/σ``: what evaluation computes. For the first
    ``warmup_steps`` it is plain batch norm; then the limits open linearly. All state is in float
    buffers named ``running_*``, which the target networks of stable-baselines3 copy; they stay
    float32 where the module goes to half precision. An empty batch changes none of them.

    Args:
        num_features: number of channels C.
        momentum: share of the newest batch in the running statistics; None averages all batches
            equally.
        eps: added to variances.
        affine: whether to scale by ``weight`` and shift by ``bias``.
        r_max: final limit of r.
        d_max: final limit of d.
        warmup_steps: training batches before r and d start to act.
        r_steps: batches after which r_max is reached.
        d_steps: batches after which d_max is reached.
        device: where the parameters live.
        dtype: their type.

    Shape:
        ``(B, C)`` or ``(B, C, …)``, the same out.

    Attributes:
        running_mean: ``(C,)``.
        running_var: ``(C,)``, of the population (divided by n, not n − 1), so that r is 1 for a
            batch that is like the ones before it.
        running_steps: ``()``, the training batches seen so far.

    Raises:
        UsageError: a number outside of its range, an input with another number of axes or
            channels, or a training batch with one value for each channel.
    """

    _spatial: tuple[int, ...] = ()
    running_mean: Tensor
    running_var: Tensor
    running_steps: Tensor

    def __init__(
        self,
        num_features: int,
        momentum: float | None = 0.01,
        eps: float = 1e-5,
        affine: bool = True,
        r_max: float = 3.0,
        d_max: float = 5.0,
        warmup_steps: int = 5_000,
        r_steps: int = 40_000,
        d_steps: int = 25_000,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_positive(num_features=num_features, eps=eps)
        check_momentum(momentum)
        if r_max < 1 or d_max < 0:
            raise UsageError(f"r_max must be at least 1 and d_max 0, got {r_max!r} and {d_max!r}")
        if not 0 <= warmup_steps < min(r_steps, d_steps):
            raise UsageError(
                "warmup_steps must be at least 0 and below r_steps and d_steps, "
                f"got {warmup_steps}, {r_steps} and {d_steps}"
            )
        self.num_features, self.momentum, self.eps = num_features, momentum, eps
        self.r_max, self.d_max = r_max, d_max
        self.warmup_steps, self.r_steps, self.d_steps = warmup_steps, r_steps, d_steps
        ones = torch.ones(num_features, device=device, dtype=dtype)
        self.weight = nn.Parameter(ones.clone()) if affine else None
        self.bias = nn.Parameter(torch.zeros_like(ones)) if affine else None
        wide = ones.to(wide_dtype(ones.dtype))
        self.register_buffer("running_mean", torch.zeros_like(wide))
        self.register_buffer("running_var", wide)
        self.register_buffer("running_steps", wide.new_zeros(()))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        rewiden(self, before)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, …) -> (B, C, …)``."""
        axes = channel_axes(x, self.num_features, self._spatial)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.training and x.numel():
            scale, shift = self._renormalise(wide, axes)
        else:
            scale = (self.running_var + self.eps).rsqrt()
            shift = -self.running_mean * scale
        if self.weight is not None and self.bias is not None:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        return (wide * along_channels(scale, x) + along_channels(shift, x)).to(x.dtype)

    def _renormalise(self, wide: Tensor, axes: list[int]) -> tuple[Tensor, Tensor]:
        """The scale and shift, each ``(C,)``, of x̂, and the update of the running statistics."""
        if wide.numel() == wide.shape[1]:
            raise UsageError(
                "batch renormalization cannot train on one value for each channel, "
                f"got shape {tuple(wide.shape)}"
            )
        var, mean = torch.var_mean(wide, axes, correction=0)
        std = (var + self.eps).sqrt()
        with torch.no_grad():
            running_std = (self.running_var + self.eps).sqrt()
            # Tensors, not numbers: reading running_steps would make a GPU wait.
            r_opening = self._opening(self.r_steps)
            r_limit = 1 + (self.r_max - 1) * r_opening
            d_limit = self.d_max * self._opening(self.d_steps)
            r = (std / running_std).clamp(1 / r_limit, r_limit)
            d = ((mean - self.running_mean) / running_std).clamp(-d_limit, d_limit)
            self.running_steps += 1
            share = 1 / self.running_steps if self.momentum is None else self.momentum
            self.running_mean += share * (mean - self.running_mean)
            self.running_var += share * (var - self.running_var)
        scale = r / std
        return scale, d - mean * scale

    def _opening(self, last_step: int) -> Tensor:
        """From 0 (up to ``warmup_steps``) to 1 (from ``last_step`` on)."""
        done = self.running_steps - self.warmup_steps
        return (done / (last_step - self.warmup_steps)).clamp(0, 1)

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return (
            f"{self.num_features}, momentum={self.momentum}, eps={self.eps}, r_max={self.r_max}, "
            f"d_max={self.d_max}, warmup_steps={self.warmup_steps}"
        )


class BatchRenorm1d(BatchRenorm):
    """:class:`BatchRenorm` of ``(B, C)`` or ``(B, C, L)``."""

    _spatial = (0, 1)


class BatchRenorm2d(BatchRenorm):
    """:class:`BatchRenorm` of ``(B, C, H, W)``."""

    _spatial = (2,)


class BatchRenorm3d(BatchRenorm):
    """:class:`BatchRenorm` of ``(B, C, D, H, W)``."""

    _spatial = (3,)
