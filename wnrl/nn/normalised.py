"""What ``convert`` puts in the place of a layer: the layer and its normaliser, under one name."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wnrl.errors import check_positive


class Normalised(nn.Module):
    """A layer (or a nonlinearity) followed by a normaliser.

    It takes the slot of what it holds, so the indices and names around it stay as they were.
    Normalisers of batch statistics want channels in axis 1; behind a linear layer, whose features
    are last, all leading axes are one batch.

    Args:
        layer: what was there.
        norm: what normalises its output.
        features_last: whether the features of the output are in the last axis, not in axis 1.
    """

    def __init__(self, layer: nn.Module, norm: nn.Module, features_last: bool) -> None:
        super().__init__()
        self.layer, self.norm = layer, norm
        self.features_last = features_last

    def forward(self, input: Tensor) -> Tensor:
        """The normalised output of ``layer``."""
        t: Tensor = self.layer(input)
        rows = t.reshape(-1, t.shape[-1]) if self.features_last and t.dim() != 2 else t
        out: Tensor = self.norm(rows)
        return out.reshape(t.shape)


class FeatureRMSNorm(nn.RMSNorm):
    """``nn.RMSNorm`` that keeps its fused kernel, and its peace, under autocast."""

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C) -> (..., C)``."""
        weight = None if self.weight is None else self.weight.to(x.dtype)
        return F.rms_norm(x, self.normalized_shape, weight, self.eps)


class ChannelRMSNorm(nn.Module):
    """RMS norm (Zhang & Sennrich 2019, arXiv:1910.07467) of a feature map, one example at a time.

    ``x / sqrt(mean(x²) + eps) · weight``, the mean over channels and positions, as
    ``nn.GroupNorm(1, C)`` is layer norm over both.

    Args:
        num_channels: C.
        eps: added to the mean square.

    Shape:
        ``(B, C, …)``, the same out.
    """

    def __init__(self, num_channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        check_positive(num_channels=num_channels, eps=eps)
        self.num_channels, self.eps = num_channels, eps
        self.weight = nn.Parameter(torch.ones(num_channels))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, …) -> (B, C, …)``."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        scale = (wide.square().mean(list(range(1, x.dim())), keepdim=True) + self.eps).rsqrt()
        return (wide * scale).to(x.dtype) * self.weight.view(-1, *[1] * (x.dim() - 2))

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return f"{self.num_channels}, eps={self.eps}"
