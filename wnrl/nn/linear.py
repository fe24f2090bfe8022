"""The weight-normalized linear layer."""

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from wnrl.nn.base import WeightNormed
from wnrl.nn.effective import effective_weight


class WNLinear(WeightNormed):
    """``nn.Linear`` with w = g · v / ‖v‖, one length g for each output unit.

    Arguments are those of ``nn.Linear`` and of ``WeightNormed``.

    Attributes:
        weight_v: directions, ``(out_features, in_features)``.
        weight_g: lengths, ``(out_features, 1)``.
        bias: ``(out_features,)`` or None.
        weight: the effective weight, ``(out_features, in_features)``; assigning to it, or writing
            into it without grad, sets v and g. It is computed at each reading: keep it in a
            variable to use it twice. numpy's view of it is read-only, since what numpy writes
            cannot be noticed; write ``layer.weight = torch.from_numpy(array)`` instead.
    """

    plain_type = nn.Linear
    arguments: ClassVar[tuple[str, ...]] = ("in_features", "out_features", "bias")
    in_features: int
    out_features: int
    weight_g: nn.Parameter
    weight_v: nn.Parameter
    bias: nn.Parameter | None
    weight = effective_weight()

    def forward(self, input: Tensor) -> Tensor:
        """``(..., in_features) -> (..., out_features)``."""
        weight, bias = self._weights()
        return F.linear(input, weight, bias)
