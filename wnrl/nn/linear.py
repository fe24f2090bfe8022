"""The weight-normalized linear layer."""

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wnrl.nn.functional import row_norm, weight_norm


class WNLinear(nn.Module):
    """``nn.Linear`` with w = g · v / ‖v‖, one length g for each output unit.

    Not a subclass of ``nn.Linear``: initialisers that write ``module.weight`` of every
    ``nn.Linear`` would be lost without a word.

    Args:
        in_features: size of the last axis of the input.
        out_features: size of the last axis of the output.
        bias: whether to add a bias.

    Attributes:
        weight_v: direction, ``(out_features, in_features)``.
        weight_g: length, ``(out_features, 1)``.
        bias: ``(out_features,)`` or None.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self._adopt(nn.Linear(in_features, out_features, bias))

    @classmethod
    def from_plain(cls, plain: nn.Linear) -> Self:
        """A layer with the same function as ``plain``: v := w, g := ‖w‖; its bias is shared."""
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer._adopt(plain)
        return layer

    def _adopt(self, plain: nn.Linear) -> None:
        self.in_features, self.out_features = plain.in_features, plain.out_features
        weight = plain.weight.detach()
        self.weight_g = nn.Parameter(row_norm(weight))
        self.weight_v = nn.Parameter(weight.clone())
        self.bias = plain.bias

    @property
    def weight(self) -> Tensor:
        """The effective weight, ``(out_features, in_features)``."""
        return weight_norm(self.weight_v, self.weight_g)

    def to_plain(self) -> nn.Linear:
        """An ``nn.Linear`` with the same function and parameters of its own."""
        plain = nn.Linear(
            self.in_features, self.out_features, self.bias is not None, device=self.weight_v.device
        )
        with torch.no_grad():
            plain.weight.copy_(self.weight)
            if self.bias is not None:
                plain.bias.copy_(self.bias)
        return plain

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in_features) -> (..., out_features)``."""
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"
