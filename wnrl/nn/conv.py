"""Weight-normalized convolutions."""

from typing import Any, Self

import torch
from torch import Tensor, nn

from wnrl.nn.functional import row_norm, weight_norm


class WNConv2d(nn.Module):
    """``nn.Conv2d`` with w = g · v / ‖v‖, one length g for each output channel.

    Arguments are those of ``nn.Conv2d``.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Any, **kwargs: Any) -> None:
        super().__init__()
        self._adopt(nn.Conv2d(in_channels, out_channels, kernel_size, **kwargs))

    @classmethod
    def from_plain(cls, plain: nn.Conv2d) -> Self:
        """A layer with the same function as ``plain``: v := w, g := ‖w‖; its bias is shared."""
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer._adopt(plain)
        return layer

    def _adopt(self, plain: nn.Conv2d) -> None:
        self._settings = dict(
            in_channels=plain.in_channels, out_channels=plain.out_channels,
            kernel_size=plain.kernel_size, stride=plain.stride, padding=plain.padding,
            dilation=plain.dilation, groups=plain.groups, padding_mode=plain.padding_mode,
        )
        weight = plain.weight.detach()
        self.weight_g = nn.Parameter(row_norm(weight))
        self.weight_v = nn.Parameter(weight.clone())
        self.bias = plain.bias

    @property
    def weight(self) -> Tensor:
        """The effective weight."""
        return weight_norm(self.weight_v, self.weight_g)

    def to_plain(self) -> nn.Conv2d:
        """An ``nn.Conv2d`` with the same function and parameters of its own."""
        plain = nn.Conv2d(**self._settings, bias=self.bias is not None, device=self.weight_v.device)
        with torch.no_grad():
            plain.weight.copy_(self.weight)
            if self.bias is not None and plain.bias is not None:
                plain.bias.copy_(self.bias)
        return plain

    def forward(self, x: Tensor) -> Tensor:
        """As ``nn.Conv2d``."""
        s = self._settings
        return nn.functional.conv2d(
            x, self.weight, self.bias, s["stride"], s["padding"], s["dilation"], s["groups"]
        )
