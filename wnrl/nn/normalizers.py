"""Normalizers of activations that torch lacks, and the pair of a layer and its normalizer."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wnrl.arguments import checked
from wnrl.errors import UsageError
from wnrl.limits import Fraction, Positive, Whole
from wnrl.nn.functional import hold, in_backward, is_traced, refuse_script, wide, wide_dtype


def along_channels(value: Tensor, x: Tensor) -> Tensor:
    """``(C,) -> (1, C, 1, …)`` with as many axes as ``x``."""
    return value.view(1, -1, *[1] * (x.dim() - 2))


class BatchStatistics(nn.Module, ABC):
    """What the normalizers of batches share: a bias, and float buffers ``running_*``.

    ``torch.optim.swa_utils.update_bn`` and ``nn.SyncBatchNorm.convert_sync_batchnorm`` know torch's
    batch norms alone, and pass these over.

    Args:
        num_features: number of channels C.
        momentum: share of the newest batch in the running statistics; None averages all equally.
        scaled: whether there are a scale and a running variance.
    """

    weight: Any
    bias: Any
    running_mean: Any
    running_steps: Any
    __prepare_scriptable__ = refuse_script

    def __init__(self, num_features: int, momentum: float | None, *, scaled: bool) -> None:
        super().__init__()
        self.num_features, self.momentum = num_features, momentum
        ones = torch.ones(num_features)
        running = ones.to(wide_dtype(ones.dtype), copy=True)
        self.register_buffer("running_mean", torch.zeros_like(running))
        if scaled:
            self.weight = nn.Parameter(ones)
            self.register_buffer("running_var", running)
        self.register_buffer("running_steps", running.new_zeros(()))
        self.bias = nn.Parameter(torch.zeros_like(ones))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = dict(self.named_buffers())
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, new in self.named_buffers():
            if new.dtype != wide_dtype(new.dtype):  # which has been narrowed
                self._buffers[name] = before[name].to(new.device, wide_dtype(new.dtype))
        return self

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, …) -> (B, C, …)``."""
        if x.dim() < 2 or x.shape[1] != self.num_features:
            raise UsageError(
                f"expected an input with {self.num_features} channels in axis 1, "
                f"got shape {tuple(x.shape)}"
            )
        if not x.numel():  # with a gradient, of zero, for the parameters, as torch's batch norm has
            return x + sum(p.sum() for p in self.parameters())
        if self.training and x.numel() == self.num_features:
            raise UsageError(
                "statistics of a batch need more than one value for each channel, "
                f"got shape {tuple(x.shape)}"
            )
        return self._normalise(wide(x)).to(x.dtype)  # bf16 sums lose whole digits

    @abstractmethod
    def _normalise(self, x: Tensor) -> Tensor:
        """Return what ``x``, in float32 or wider, becomes by the batch's or running statistics."""

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        shown = ("eps", "momentum", "r_max", "d_max")
        numbers = [f"{name}={value}" for name, value in vars(self).items() if name in shown]
        return ", ".join([str(self.num_features), *numbers])

    def _share(self) -> Tensor | float:
        """Return the share of the next batch in the running statistics."""
        return 1 / (self.running_steps + 1) if self.momentum is None else self.momentum

    def reset_running_stats(self) -> None:
        """Forgets all batches."""
        for name, buffer in self.named_buffers():
            buffer.fill_(1.0 if name == "running_var" else 0.0)

    def reset_parameters(self) -> None:
        """Forgets all batches, and sets scale and shift to one and zero."""
        self.reset_running_stats()
        nn.init.zeros_(self.bias)
        if "weight" in self._parameters:
            nn.init.ones_(self.weight)


class MeanOnlyBatchNorm(BatchStatistics):
    """t − μ[t] + b for each channel (eq. 7); its gradient is centred in turn (eq. 8).

    In training μ is the mean of the batch, in evaluation the running mean, as in ``nn.BatchNorm``;
    there is no division by a standard deviation, so the noise that the batch adds is small and
    close to Gaussian. All state is in float buffers whose names start with ``running_``: those
    are the ones that the target networks of stable-baselines3 copy. They stay float32 where the
    module goes to half precision. An empty batch changes none of them.

    Args:
        num_features: number of channels C.
        momentum: share of the newest mean in the running one; None averages all batches equally.

    Shape:
        ``(B, C)`` or ``(B, C, …)``, the same out.

    Attributes:
        bias: ``(C,)``.
        running_mean: ``(C,)``.
        running_steps: ``()``, the training batches seen so far.

    Raises:
        UsageError: ``num_features`` is not above zero, ``momentum`` is not in [0, 1], an input has
            less than two axes or other channels, or a batch that is averaged has one value for
            each channel.
    """

    def __init__(self, num_features: Whole, *, momentum: Fraction | None = 0.1) -> None:
        super().__init__(num_features, momentum, scaled=False)

    def _normalise(self, x: Tensor) -> Tensor:
        mean = x.mean([0, *range(2, x.dim())]) if self.training else self.running_mean
        if self.training:
            with torch.no_grad():
                # Computed anew too: selective checkpointing tells operations by their number.
                step = self._share() * (mean - self.running_mean)
                if not in_backward():
                    self.running_mean += step
                    self.running_steps += 1
        return x + along_channels(self.bias - mean, x)


class BatchRenorm(BatchStatistics):
    """Batch norm whose training output agrees with the running statistics, within limits.

    ``x̂ = (x − μ_B)/σ_B · r + d`` with ``r = σ_B/σ`` clipped to [1/r_max, r_max] and
    ``d = (μ_B − μ)/σ`` clipped to [−d_max, d_max], both constants for the gradient (Algorithm 1).
    Within the limits the output is ``(x − μ)/σ``: what evaluation computes. For the first
    ``warmup_steps`` it is plain batch norm; then the limits open linearly. All state is in float
    buffers named ``running_*``, which the target networks of stable-baselines3 copy; they stay
    float32 where the module goes to half precision. An empty batch changes none of them.

    Args:
        num_features: number of channels C.
        eps: added to variances.
        momentum: share of the newest batch in the running statistics; None averages all batches
            equally.
        r_max: final limit of r.
        d_max: final limit of d.
        warmup_steps: training batches before r and d start to act.
        r_steps: batches after which r_max is reached.
        d_steps: batches after which d_max is reached.

    Shape:
        ``(B, C)`` or ``(B, C, …)``, the same out.

    Attributes:
        weight: ``(C,)``.
        bias: ``(C,)``.
        running_mean: ``(C,)``.
        running_var: ``(C,)``, of the population (divided by n, not n − 1), so that r is 1 for a
            batch that is like the ones before it.
        running_steps: ``()``, the training batches seen so far.

    Raises:
        UsageError: a number outside of its range, an input with less than two axes or other
            channels, or a batch with one value for each channel whose statistics are wanted.
    """

    running_var: Any
    _latest: tuple[Tensor, ...] = ()
    """Mean, r and d of the latest batch, for activation checkpointing."""

    def __init__(
        self,
        num_features: Whole,
        eps: Positive = 1e-5,
        momentum: Fraction | None = 0.01,
        *,
        r_max: float = 3.0,
        d_max: float = 5.0,
        warmup_steps: int = 5_000,
        r_steps: int = 40_000,
        d_steps: int = 25_000,
    ) -> None:
        super().__init__(num_features, momentum, scaled=True)
        if not (1 <= r_max < math.inf and 0 <= d_max < math.inf):
            raise UsageError(
                f"r_max must be at least 1 and d_max 0, both finite, got {r_max!r} and {d_max!r}"
            )
        if not 0 <= warmup_steps < min(r_steps, d_steps):
            raise UsageError(
                "warmup_steps must be at least 0 and below r_steps and d_steps, "
                f"got {warmup_steps}, {r_steps} and {d_steps}"
            )
        self.eps, self.r_max, self.d_max = eps, r_max, d_max
        self.warmup_steps, self.r_steps, self.d_steps = warmup_steps, r_steps, d_steps

    def _normalise(self, x: Tensor) -> Tensor:
        if self.training:
            var, mean = torch.var_mean(x, [0, *range(2, x.dim())], correction=0)
            std = (var + self.eps).sqrt()
            r, shift = self._correction(mean, var, std)
            scale = r / std
        else:
            mean, shift = self.running_mean, torch.zeros_like(self.running_mean)
            scale = (self.running_var + self.eps).rsqrt()
        scale, shift = scale * self.weight, shift * self.weight + self.bias
        # The mean first: where it is large, the digits that matter are those of the difference.
        centred = x - along_channels(mean, x)
        return centred * along_channels(scale, x) + along_channels(shift, x)

    @torch.no_grad()
    def _correction(self, mean: Tensor, var: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """Return r and d, each ``(C,)``, and update the running statistics."""
        if in_backward():
            if not self._latest or not torch.equal(mean, self._latest[0]):
                raise UsageError(
                    "activation checkpointing computes anew what batch renormalisation did before "
                    "its latest batch, by statistics that have moved: leave it out of that part"
                )
            return self._latest[1], self._latest[2]
        running_std = (self.running_var + self.eps).sqrt()
        r_limit, d_limit = self.limits(self.running_steps)
        r = (std / running_std).clamp(1 / r_limit, r_limit)
        d = ((mean - self.running_mean) / running_std).clamp(-d_limit, d_limit)
        if torch.compiler.is_compiling():
            r, d = hold(torch.stack([r, d])).unbind()
        share = self._share()
        self.running_mean += share * (mean - self.running_mean)
        self.running_var += share * (var - self.running_var)
        self.running_steps += 1
        if not is_traced():
            self._latest = mean.detach(), r, d
        return r, d

    def limits(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Return the limits of r and of d after ``steps`` batches, in the shape of ``steps``."""
        # Tensors, not numbers: reading running_steps would make a GPU wait.
        done = steps - self.warmup_steps
        r_opening = (done / (self.r_steps - self.warmup_steps)).clamp(0, 1)
        d_opening = (done / (self.d_steps - self.warmup_steps)).clamp(0, 1)
        return 1 + (self.r_max - 1) * r_opening, self.d_max * d_opening


class Normalized(nn.Module):
    """A layer (or a nonlinearity) followed by a normalizer.

    It takes the site of what it holds, so the indices and names around it stay as they were.
    Normalizers of batch statistics want channels in axis 1; behind a linear layer, whose features
    are last, all leading axes are one batch. An image without a batch is a batch of one.

    Args:
        layer: what was there.
        norm: what normalises its output.
        n_spatial: the number of spatial axes behind axis 1, which has the channels; 0 where the
            features are in the last axis.
    """

    def __init__(self, layer: nn.Module, norm: nn.Module, n_spatial: int) -> None:
        super().__init__()
        self.layer, self.norm = layer, norm
        self.n_spatial = n_spatial

    def forward(self, input: Tensor) -> Tensor:
        """The normalised output of ``layer``."""
        t: Tensor = self.layer(input)
        if t.dim() == (self.n_spatial + 2):
            return self.norm(t)
        out: Tensor = self.norm(t[None] if self.n_spatial else t.reshape(-1, t.shape[-1]))
        return out.reshape(t.shape)


class FeatureRMSNorm(nn.RMSNorm):
    """``nn.RMSNorm`` that keeps its fused kernel, and its peace, under autocast."""

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C) -> (..., C)``."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


@checked
class ChannelRMSNorm(nn.RMSNorm):
    """RMS norm (Zhang & Sennrich 2019, arXiv:1910.07467) of a feature map, one example at a time.

    ``x / sqrt(mean(x²) + eps) · weight``, the mean over channels and positions, as
    ``nn.GroupNorm(1, C)`` is layer norm over both.

    Args:
        num_channels: C.
        eps: added to the mean square.

    Shape:
        ``(B, C, …)``, the same out.
    """

    eps: Any
    __prepare_scriptable__ = refuse_script

    def __init__(self, num_channels: Whole, eps: Positive = 1e-5) -> None:
        super().__init__(num_channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, …) -> (B, C, …)``."""
        t = wide(x)
        scale = (t.square().mean(list(range(1, x.dim())), keepdim=True) + self.eps).rsqrt()
        return (t * scale).to(x.dtype) * self.weight.view(-1, *[1] * (x.dim() - 2))
