"""Weights as the kernels see them: rows of one length, of many weights, in one matrix."""

from collections.abc import Sequence

import torch
from torch import Tensor

from wnrl.nn.functional import row_norm
from wnrl.optim.pairs import Pair, effective, has_kernel

SMALL = 2**14
"""Weights of at most this many numbers are put together; copying larger ones costs more time than a
call of a kernel does."""
LARGE = 2**18
"""From here on, the time goes into fresh memory, and existing memory is written to instead."""
_kernel_backward = torch.ops.aten._weight_norm_interface_backward.default


class Stack:
    """Small weights whose rows are equally long, or one large weight.

    Args:
        pairs: the weights.
        v: their directions, ``(rows, numbers in a row)``, which the pairs become views of.
        g: their lengths, ``(rows, 1)``, the same.
    """

    def __init__(self, pairs: Sequence[Pair], v: Tensor, g: Tensor) -> None:
        self.pairs, self.v, self.g = pairs, v, g
        self._sizes = [len(pair.v) for pair in pairs]
        for pair, of_v, of_g in zip(pairs, v.split(self._sizes), g.split(self._sizes), strict=True):
            pair.v, pair.g = of_v.view(pair.v.shape), of_g.view(pair.g.shape)
        self._kernel = has_kernel(v)
        self._norm: Tensor | None = None  # ‖v‖ that went into w; None: w may be another now
        self._targets: list[Tensor] = []
        self._in_place = False
        self._buffer: Tensor | None = None  # ∇v of a large one

    def gradients(self) -> tuple[Tensor, Tensor]:
        """∇v = g/‖v‖ ∇w − g ∇g/‖v‖² v and ∇g = ∇w·v/‖v‖ (eq. 3), for ∇w of all pairs."""
        self.follow([pair for pair in self.pairs if not pair.is_as_written()])
        norm = self._prepared() if self._norm is None else self._norm
        grads = [pair.gradient() for pair in self.pairs]
        grad = grads[0] if len(grads) == 1 else torch.cat(grads)
        # torch's fused optimizers ignore strides: a gradient must be laid out as its tensor is.
        if grad.dtype != self.v.dtype or not grad.is_contiguous():
            grad = grad.to(self.v.dtype).contiguous()
        if self.v.numel() > LARGE:
            return self._buffered_gradients(grad, norm)
        if self._kernel:
            return _kernel_backward(grad, self.v, self.g, norm, 0)
        along = (grad * self.v).sum(1, keepdim=True) / norm
        return self.g / norm * (grad - self.v * (along / norm)), along

    def _buffered_gradients(self, grad: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
        """The same without a new tensor as large as v."""
        if self._buffer is None:
            self._buffer = torch.empty_like(self.v)
        v_grad = torch.mul(grad, self.v, out=self._buffer)
        along = v_grad.sum(1, keepdim=True) / norm
        scale = self.g / norm
        torch.mul(grad, scale, out=v_grad)
        return v_grad.addcmul_(self.v, scale * along / norm, value=-1), along

    def follow(self, pairs: Sequence[Pair]) -> None:
        """Lets (v, g) follow what others have written into the weights of ``pairs``."""
        for pair in pairs:
            pair.follow()
            self._norm = None

    def write(self) -> tuple[list[Tensor], list[Tensor]]:
        """Writes w = g v/‖v‖, for pairs that have been followed.

        Returns:
            Weights and what is still to be copied into them, which one call does for all stacks.
        """
        if self._in_place:
            self._norm = self._lengths()
            torch.mul(self.v, self.g / self._norm, out=self._targets[0])
            return [], []
        w, self._norm = effective(self.v, self.g)
        rows = [w] if len(self._sizes) == 1 else w.split_with_sizes(self._sizes)
        shaped = zip(rows, self._targets, strict=True)
        return self._targets, [w if t.dim() == 2 else w.view(t.shape) for w, t in shaped]

    def _prepared(self) -> Tensor:
        """‖v‖, once it is settled how w is written: in place, or by a copy."""
        self._targets = [
            target.view(len(pair.v), -1) if target.is_contiguous() else target
            for pair, target in ((pair, pair.target()) for pair in self.pairs)
        ]
        first = self._targets[0]
        large = self.v.numel() > SMALL and len(self.pairs) == 1
        self._in_place = large and first.is_contiguous() and first.dtype == self.v.dtype
        self._norm = self._lengths() if self._in_place else effective(self.v, self.g)[1]
        return self._norm

    def _lengths(self) -> Tensor:
        if self._kernel:
            return torch.linalg.vector_norm(self.v, dim=1, keepdim=True)
        return row_norm(self.v)


def by_row_length(pairs: Sequence[Pair]) -> tuple[list[list[Pair]], list[Pair]]:
    """Sorts weights into stacks.

    Returns:
        Small ones whose rows are equally long, and the large ones, each of which is a stack.
    """
    alike: dict[int, list[Pair]] = {}
    for pair in pairs:
        if pair.v.numel() <= SMALL:
            alike.setdefault(pair.v[0].numel(), []).append(pair)
    return list(alike.values()), [pair for pair in pairs if pair.v.numel() > SMALL]
