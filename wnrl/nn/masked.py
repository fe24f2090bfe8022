"""Linear layers in which some inputs do not reach some outputs, as in MADE."""

from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wnrl.errors import UsageError
from wnrl.nn.functional import weight_norm
from wnrl.nn.linear import WNLinear


class MaskedLinear(nn.Linear):
    """``nn.Linear`` whose weight is multiplied by a mask (Germain et al., 2015, arXiv:1502.03509).

    Masked weights start at zero and get no gradient, so they stay there. What is written there
    changes no output; loading a state dict and ``module.apply``, for initialisers, make it zero. An
    optimizer of ``wnrl.optim`` knows of no mask: until then it counts such numbers in the length g.

    Args:
        in_features: as for ``nn.Linear``.
        out_features: as for ``nn.Linear``.
        mask: ones where an input reaches an output, else zeros, ``(out_features, in_features)``.
        bias: as for ``nn.Linear``.
        device: as for ``nn.Linear``.
        dtype: as for ``nn.Linear``.

    Attributes:
        mask: as given; a buffer.

    Raises:
        UsageError: a mask of another shape, or of other values than zero and one.
    """

    mask: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        mask: Tensor,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        if mask.shape != self.weight.shape:
            wanted = tuple(self.weight.shape)
            raise UsageError(f"mask must have shape {wanted}, got {tuple(mask.shape)}")
        if not (mask.is_meta or ((mask == 0) | (mask == 1)).all()):
            raise UsageError("mask must be of zeros and ones, got other values")
        self.register_buffer("mask", mask.to(self.weight, copy=True))
        self._mask_weight()

    def reset_parameters(self) -> None:
        """Draws the parameters anew, as the constructor does."""
        super().reset_parameters()
        if "mask" in self._buffers:  # not yet, when nn.Linear's constructor calls this
            self._mask_weight()

    @torch.no_grad()
    def _mask_weight(self) -> None:
        self.weight.mul_(self.mask)

    def apply(self, fn: Callable[[nn.Module], Any]) -> Self:
        """As every module's, with the mask over what ``fn`` writes."""
        super().apply(fn)
        self._mask_weight()
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._mask_weight()

    def forward(self, input: Tensor) -> Tensor:
        """``(..., in_features) -> (..., out_features)``."""
        return F.linear(input, self.weight * self.mask, self.bias)


class WNMaskedLinear(WNLinear):
    """``MaskedLinear`` with w = g · (m ⊙ v) / ‖m ⊙ v‖: the mask comes before the norm.

    A row whose inputs are all masked is zero whatever its v is: g starts at 0, and neither gets a
    gradient. Arguments are those of ``MaskedLinear`` and of ``WeightNormed``.
    """

    plain_type = MaskedLinear  # type: ignore[assignment]  # mypy compares the constructors
    arguments: ClassVar[tuple[str, ...]] = ("in_features", "out_features", "mask", "bias")
    mask: Tensor

    def _configure(self, plain: nn.Module, *options: object) -> None:
        assert isinstance(plain, MaskedLinear)
        self.register_buffer("mask", plain.mask)
        super()._configure(plain, *options)  # type: ignore[arg-type]

    def _split(self, name: str, weight: Tensor) -> tuple[Tensor, Tensor]:
        v, g = super()._split(name, weight * self.mask.to(weight))
        return self._visible(v), g

    def _visible(self, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """``m ⊙ v``, but for rows without inputs, which keep a direction as every row does."""
        mask = self.mask if mask is None or mask.shape != v.shape else mask
        if mask.is_meta or v.is_meta:
            return v
        mask = mask.to(v)
        return torch.where(mask.any(1, keepdim=True), v * mask, v)

    def effective(self, name: str = "weight") -> Tensor:
        """The effective weight, computed now, with its graph where grad is on."""
        v, g = self._parameter(f"{name}_v"), self._parameter(f"{name}_g")
        return weight_norm(v * self.mask, self._length(g), self.output_dim, self.eps)

    def to_plain(self) -> nn.Module:
        """The ``MaskedLinear`` with the same function and parameters of its own."""
        plain = super().to_plain()
        plain.mask = self.mask.clone()
        return plain
