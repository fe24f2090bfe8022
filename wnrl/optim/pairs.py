"""A weight of a plain network and the (v, g) that an optimizer owns for it."""

import torch
from torch import Tensor

from wnrl.errors import UsageError
from wnrl.nn.functional import ZERO_ROW_STD, row_norm, split_weight, units_first

_SAME = 8
"""How many units in the last place w may be from g v/‖v‖, computed on another device perhaps."""
_SAME_IN_HALF = 1
"""The same for a w narrower than float32, where eight units are several per cent."""
_SHORT = 2.0**-7
"""Rows of float32 below this length differ in their last digits with the eps of ``row_norm``."""
_VANISHING = 2.0**-33
"""Rows of float32 below this length are not divided by the cube of it, as torch's kernel would."""


class Pair:
    """One weight w of the network and the (v, g) behind it.

    Args:
        w: the parameter.
        transposed: 0, or the number of groups of the transposed convolution that w belongs to.
        v: direction, with the output units in axis 0; float32 or wider.
        g: length, ``(units, 1, …)``.
    """

    def __init__(self, w: Tensor, transposed: int, v: Tensor, g: Tensor) -> None:
        self.w, self.transposed, self.v, self.g = w, transposed, v, g
        self._written: Tensor | None = None  # holds the storage, so that its address stays taken
        self._address = self._version = -1

    @staticmethod
    def suits(w: Tensor, transposed: int) -> bool:
        """Whether w has rows of two numbers or more: a single number has no direction to learn."""
        if w.dim() < 2:
            return False
        return not w.numel() or w.numel() > (transposed * w.shape[1] if transposed else len(w))

    @classmethod
    def split(cls, w: Tensor, transposed: int, v_init_std: float | None) -> "Pair":
        """The pair that stands for w as it is."""
        if not w.numel():
            raise UsageError(f"a weight must have no empty axis, got shape {tuple(w.shape)}")
        if w.is_meta:
            raise UsageError(
                f"a weight must have values, got shape {tuple(w.shape)} on device meta"
            )
        if w.is_complex():
            raise UsageError(
                f"a weight must be real, got {w.dtype} of shape {tuple(w.shape)}: "
                "give its group weight_norm=False"
            )
        if transposed and len(w) % transposed:
            raise UsageError(
                f"transposed={transposed} must divide the input channels of a weight of shape "
                f"{tuple(w.shape)}"
            )
        rows = units_first(w.detach().to(torch.promote_types(w.dtype, torch.float32)), transposed)
        rows = rows.flatten(0, 1) if transposed else rows
        rows = rows.contiguous()
        v, g = split_weight(rows, v_std=v_init_std)
        if has_kernel(v) and v_init_std is None:  # the kernel has no eps
            longer, length = split_weight(rows, v_std=ZERO_ROW_STD)
            v = torch.where(length < _VANISHING, longer, v)
            g = torch.where(length < _SHORT, length, g)
        return cls(w, transposed, v, g)

    def rows(self, like_w: Tensor) -> Tensor:
        """What is shaped as w, as a matrix with a row for each output unit."""
        if self.transposed:
            return units_first(like_w, self.transposed).flatten(0, 1).flatten(1)
        return like_w if like_w.dim() == 2 else like_w.flatten(1)

    def gradient(self) -> Tensor:
        """∇w, as a matrix with a row for each output unit.

        Raises:
            UsageError: it is sparse.
        """
        grad = self.w.grad
        assert grad is not None
        if grad.layout is not torch.strided:
            raise UsageError(
                f"a weight of shape {tuple(self.w.shape)} must have a dense gradient, got a sparse "
                "one: make its layer with sparse=False, or its group with weight_norm=False"
            )
        return self.rows(grad)

    def follow(self) -> None:
        """Where w is not g v/‖v‖ any more: v takes its direction and keeps its length, g = ‖w‖."""
        w = self.rows(self.w.detach())
        v, g = self.v.flatten(1), self.g.flatten(1)
        if not self._stands_for(w, v, g):
            direction, length = split_weight(w.to(v.dtype), v_std=ZERO_ROW_STD)
            v.copy_(direction * (row_norm(v) / row_norm(direction)))
            g.copy_(length)
        self._written, self._address = self.w.detach(), self.w.data_ptr()
        self.mark_as_written()

    def _stands_for(self, w: Tensor, v: Tensor, g: Tensor) -> bool:
        """Whether ``w`` is g v/‖v‖; a narrow one that was written here is so to the last bit."""
        expected = effective(v, g)[0].to(w.dtype)
        narrow = w.dtype != v.dtype
        if narrow and self._written is not None:
            return torch.equal(expected, w)
        tolerance = (_SAME_IN_HALF if narrow else _SAME) * torch.finfo(w.dtype).eps
        return torch.allclose(expected, w, atol=0.0, rtol=tolerance)

    def is_as_written(self) -> bool:
        """Whether nobody wrote w since this optimizer did, as far as torch counts writes."""
        return self.w._version == self._version and self.w.data_ptr() == self._address

    def mark_as_written(self) -> None:
        """To be called once w has become g v/‖v‖."""
        self._version = self.w._version

    def target(self) -> Tensor:
        """w, its output units first, to be written to; ``follow`` was called before."""
        assert self._written is not None
        return units_first(self._written, self.transposed)


def effective(v: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """``g v/‖v‖`` and ‖v‖, for a matrix ``v`` of directions and a column ``g`` of lengths."""
    if has_kernel(v):
        w, norm = torch._weight_norm_interface(v, g, 0)
        return w, norm
    norm = row_norm(v)
    return v * (g / norm), norm


def has_kernel(v: Tensor) -> bool:
    """Whether torch's fused kernel, which has no eps, takes ``v``."""
    return v.dtype == torch.float32 and v.device.type in ("cpu", "cuda")
