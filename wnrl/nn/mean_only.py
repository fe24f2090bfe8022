"""Mean-only batch normalization (Salimans & Kingma 2016, arXiv:1602.07868, section 4)."""

from collections.abc import Callable, Mapping
from typing import Self

import torch
from torch import Tensor, nn

from wnrl.errors import UsageError, check_positive


def check_momentum(momentum: float | None) -> None:
    """Raises UsageError unless ``momentum`` is None or within [0, 1]."""
    if momentum is not None and not 0.0 <= momentum <= 1.0:
        raise UsageError(f"momentum must be None or within [0, 1], got {momentum!r}")


def channel_axes(x: Tensor, num_features: int, spatial: tuple[int, ...]) -> list[int]:
    """The axes of ``x`` that a batch statistic runs over: all but axis 1.

    Args:
        x: ``(B, C)`` or ``(B, C, *spatial)``.
        num_features: the C that is expected.
        spatial: the numbers of spatial axes that are accepted.

    Raises:
        UsageError: another number of axes, or of channels.
    """
    if x.dim() - 2 not in spatial or x.shape[1] != num_features:
        wanted = " or ".join(f"{n + 2}" for n in spatial)
        raise UsageError(
            f"expected an input of {wanted} axes with {num_features} channels in axis 1, "
            f"got shape {tuple(x.shape)}"
        )
    return [axis for axis in range(x.dim()) if axis != 1]


def along_channels(value: Tensor, x: Tensor) -> Tensor:
    """``(C,) -> (1, C, 1, …)`` with as many axes as ``x``."""
    return value.view(1, -1, *[1] * (x.dim() - 2))


def wide_dtype(dtype: torch.dtype | None) -> torch.dtype:
    """The type of running statistics: in half precision, 256 + 1 is 256."""
    return torch.promote_types(dtype or torch.get_default_dtype(), torch.float32)


def rewiden(module: nn.Module, before: Mapping[str, Tensor | None]) -> None:
    """Undoes the narrowing of buffers below float32, from what they held ``before``."""
    for name, old in before.items():
        new = module._buffers[name]
        if old is not None and new is not None and new.dtype != wide_dtype(new.dtype):
            module._buffers[name] = old.to(new.device, wide_dtype(new.dtype))


def reset_buffers(module: nn.Module) -> None:
    """Zeros, but ones for a variance, in every buffer of ``module`` that is there."""
    for name, buffer in module._buffers.items():
        if buffer is not None:
            buffer.fill_(1.0 if name == "running_var" else 0.0)


def check_batch(x: Tensor) -> None:
    """Raises UsageError where each channel of ``x`` has one value, which is its own mean."""
    if x.numel() == x.shape[1]:
        raise UsageError(
            "statistics of a batch need more than one value for each channel, "
            f"got shape {tuple(x.shape)}"
        )


class MeanOnlyBatchNorm(nn.Module):
    """t − μ[t] + b for each channel (eq. 7); its gradient is centred in turn (eq. 8).

    In training μ is the mean of the batch, in evaluation the running mean, as in ``nn.BatchNorm``;
    there is no division by a standard deviation, so the noise that the batch adds is small and
    close to Gaussian. All state is in float buffers whose names start with ``running_``: those
    are the ones that the target networks of stable-baselines3 copy. They stay float32 where the
    module goes to half precision. An empty batch changes none of them.

    Args:
        num_features: number of channels C.
        momentum: share of the newest mean in the running one; None averages all batches equally.
        bias: whether to add b.
        track_running_stats: False uses the mean of the batch in evaluation too.
        device: where the parameters live.
        dtype: their type.

    Shape:
        ``(B, C)`` or ``(B, C, …)``, the same out.

    Attributes:
        bias: ``(C,)`` or None.
        running_mean: ``(C,)`` or None.
        running_steps: ``()``, the training batches seen so far, or None.

    Raises:
        UsageError: ``num_features`` is not above zero, ``momentum`` is not in [0, 1], an input has
            another number of axes or channels, or a batch that is averaged has one value for each
            channel.
    """

    _spatial: tuple[int, ...] = ()
    running_mean: Tensor | None
    running_steps: Tensor | None

    def __init__(
        self,
        num_features: int,
        *,
        momentum: float | None = 0.1,
        bias: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_positive(num_features=num_features)
        check_momentum(momentum)
        self.num_features, self.momentum = num_features, momentum
        self.track_running_stats = track_running_stats
        zeros = torch.zeros(num_features, device=device, dtype=dtype)
        self.bias = nn.Parameter(zeros.clone()) if bias else None
        wide = zeros.to(wide_dtype(zeros.dtype))
        self.register_buffer("running_mean", wide if track_running_stats else None)
        self.register_buffer("running_steps", wide.new_zeros(()) if track_running_stats else None)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        rewiden(self, before)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, …) -> (B, C, …)``."""
        axes = channel_axes(x, self.num_features, self._spatial)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))  # bf16 sums lose whole digits
        if (self.training and x.numel()) or self.running_mean is None:
            check_batch(x)
            mean = wide.mean(axes)
            self._track(mean)
        else:
            mean = self.running_mean
        shift = -mean if self.bias is None else self.bias - mean
        return (wide + along_channels(shift, x)).to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor) -> None:
        if self.training and self.running_mean is not None and self.running_steps is not None:
            self.running_steps += 1
            share = 1 / self.running_steps if self.momentum is None else self.momentum
            self.running_mean += share * (mean - self.running_mean)

    def reset_running_stats(self) -> None:
        """Forgets all batches."""
        reset_buffers(self)

    def reset_parameters(self) -> None:
        """Forgets all batches, and sets b to zero."""
        reset_buffers(self)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return (
            f"{self.num_features}, momentum={self.momentum}, bias={self.bias is not None}, "
            f"track_running_stats={self.track_running_stats}"
        )


class MeanOnlyBatchNorm1d(MeanOnlyBatchNorm):
    """:class:`MeanOnlyBatchNorm` of ``(B, C)`` or ``(B, C, L)``."""

    _spatial = (0, 1)


class MeanOnlyBatchNorm2d(MeanOnlyBatchNorm):
    """:class:`MeanOnlyBatchNorm` of ``(B, C, H, W)``."""

    _spatial = (2,)


class MeanOnlyBatchNorm3d(MeanOnlyBatchNorm):
    """:class:`MeanOnlyBatchNorm` of ``(B, C, D, H, W)``."""

    _spatial = (3,)
