"""The weights of a network as an optimizer owns them: pairs (v, g), many in two long tensors."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from wnrl.errors import UsageError
from wnrl.nn.functional import EPS, ZERO_ROW_STD, row_norm, split_weight

_SAME = 8
"""How many units in the last place w may be from g v/‖v‖, computed on another device perhaps."""
_SAME_IN_HALF = 1
"""The same for a w narrower than float32, where eight units are several per cent."""
SMALL = 2**14
"""Weights of at most this many numbers are bundled; copying larger ones costs more than a call."""
LARGE = 2**18
"""From here on, the time goes into fresh memory, and existing memory is written to instead."""
_SHORT = 2.0**-7
"""Rows of float32 below this length differ in their last digits with the eps of ``row_norm``."""
_VANISHING = 2.0**-33
"""Rows of float32 below this length are not divided by the cube of it, as torch's kernel would."""
_kernel_backward = torch.ops.aten._weight_norm_interface_backward.default


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
        self.norm = row_norm(v)
        self.large = v.numel() > LARGE
        self.buffer: Tensor | None = None  # ∇v of a large one
        self.written: Tensor | None = None  # holds the storage, so that its address stays taken
        self.version = -1

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
        rows = _units_first(w.detach().to(torch.promote_types(w.dtype, torch.float32)), transposed)
        rows = rows.flatten(0, 1) if transposed else rows
        rows = rows.contiguous()
        v, g = split_weight(rows, v_std=v_init_std)
        if _has_kernel(v) and v_init_std is None:  # the kernel has no eps
            longer, length = split_weight(rows, v_std=ZERO_ROW_STD)
            v = torch.where(length < _VANISHING, longer, v)
            g = torch.where(length < _SHORT, length, g)
        return cls(w, transposed, v, g)

    def effective(self) -> Tensor:
        """``g v/‖v‖``, shaped as v; ``norm`` becomes the ‖v‖ that went into it."""
        if _has_kernel(self.v):
            new, self.norm = torch._weight_norm_interface(self.v, self.g, 0)
            return new
        self.norm = row_norm(self.v)
        return self.v * (self.g / self.norm)

    def gradients(self) -> tuple[Tensor, Tensor]:
        """∇v = g/‖v‖ ∇w − g ∇g/‖v‖² v and ∇g = ∇w·v/‖v‖ (eq. 3).

        Raises:
            UsageError: ∇w is sparse.
        """
        grad = self.w.grad
        assert grad is not None
        if grad.layout is not torch.strided:
            raise UsageError(
                f"a weight of shape {tuple(self.w.shape)} must have a dense gradient, got a sparse "
                "one: make its layer with sparse=False, or its group with weight_norm=False"
            )
        if self.transposed:
            grad = _units_first(grad, self.transposed).flatten(0, 1)
        # torch's fused optimizers ignore strides: a gradient must be laid out as its tensor is.
        grad = grad.to(self.v.dtype).contiguous()
        if self.large:
            return self._buffered_gradients(grad)
        if _has_kernel(self.v):
            return _kernel_backward(grad, self.v, self.g, self.norm, 0)
        along = (grad * self.v).flatten(1).sum(1).view_as(self.g) / self.norm
        return self.g / self.norm * (grad - self.v * (along / self.norm)), along

    def _buffered_gradients(self, grad: Tensor) -> tuple[Tensor, Tensor]:
        """The same without a new tensor as large as v."""
        if self.buffer is None:
            self.buffer = torch.empty_like(self.v)
        v_grad = torch.mul(grad, self.v, out=self.buffer)
        along = v_grad.flatten(1).sum(1).view_as(self.g) / self.norm
        scale = self.g / self.norm
        torch.mul(grad, scale, out=v_grad)
        return v_grad.addcmul_(self.v, scale * along / self.norm, value=-1), along

    def write(self) -> bool:
        """Writes a large w in one go.

        Returns:
            Whether it could: w has the layout and the type of v.
        """
        if not self.large or self.transposed or self.written is None:
            return False
        if self.written.dtype != self.v.dtype:
            return False
        length = torch.linalg.vector_norm(self.v.flatten(1), dim=1).view_as(self.g)
        self.norm = length if _has_kernel(self.v) else (length.square() + EPS).sqrt()
        torch.mul(self.v, self.g / self.norm, out=self.written)
        return True

    def follow(self) -> None:
        """Where w is not g v/‖v‖ any more: v takes its direction and keeps its length, g = ‖w‖."""
        w = _units_first(self.w.detach(), self.transposed).reshape(self.v.shape)
        if not self._stands_for(w):
            direction, length = split_weight(w.to(self.v.dtype), v_std=ZERO_ROW_STD)
            self.v.copy_(direction * (self.norm / row_norm(direction)))
            self.g.copy_(length)
            self.norm = row_norm(self.v)
        self.written, self.version = self.w.detach(), self.w._version

    def _stands_for(self, w: Tensor) -> bool:
        """Whether ``w`` is g v/‖v‖; a narrow one that was written here is so to the last bit."""
        expected = self.effective().to(w.dtype)
        narrow = w.dtype != self.v.dtype
        if narrow and self.written is not None:
            return torch.equal(expected, w)
        tolerance = (_SAME_IN_HALF if narrow else _SAME) * torch.finfo(w.dtype).eps
        return torch.allclose(expected, w, atol=0.0, rtol=tolerance)

    def is_as_written(self) -> bool:
        """Whether nobody wrote w since this optimizer did, as far as torch counts writes."""
        return (
            self.written is not None
            and self.w._version == self.version
            and self.w.data_ptr() == self.written.data_ptr()
        )


def write_weights(pairs: Sequence[Pair]) -> None:
    """Writes ``w = g v/‖v‖`` for pairs that have been followed."""
    targets, values = [], []
    for pair in pairs:
        assert pair.written is not None
        if pair.write():
            continue
        target = _units_first(pair.written, pair.transposed)
        targets.append(target)
        values.append(pair.effective().view(target.shape))
    if targets:
        torch._foreach_copy_(targets, values)
    for pair in pairs:
        pair.version = pair.w._version


class Bundle:
    """Pairs of one type on one device whose v, and whose g, are views of one long tensor each.

    An elementwise optimizer takes the same step on the long tensors as on their parts, in one go.
    Only a weight without a gradient rests while others move: the bundle falls apart for good when
    that happens, and its parts are stepped on one by one.
    """

    def __init__(self, pairs: list[Pair]) -> None:
        self.pairs, self.joined = pairs, True
        self.v, self.g = _join([pair.v for pair in pairs]), _join([pair.g for pair in pairs])
        for pair, v, g in zip(
            pairs,
            self.v.split([pair.v.numel() for pair in pairs]),
            self.g.split([pair.g.numel() for pair in pairs]),
            strict=True,
        ):
            pair.v, pair.g = v.view(pair.v.shape), g.view(pair.g.shape)

    def parameters(self) -> tuple[list[Tensor], list[Tensor]]:
        """What the base optimizer steps on: tensors of v, and of g."""
        if self.joined:
            return [self.v], [self.g]
        return [pair.v for pair in self.pairs], [pair.g for pair in self.pairs]

    def give_gradients(self, inner_state: dict[Tensor, Any]) -> list[Pair]:
        """Computes the gradients of v and g from ∇w.

        Returns:
            The pairs that have one.
        """
        present = [pair for pair in self.pairs if pair.w.grad is not None]
        if self.joined and 0 < len(present) < len(self.pairs):
            self.fall_apart(inner_state)
        for pair in present:
            if not pair.is_as_written():
                pair.follow()
        grads = [pair.gradients() for pair in present]
        if not self.joined:
            for pair, (v_grad, g_grad) in zip(present, grads, strict=True):
                pair.v.grad, pair.g.grad = v_grad, g_grad
        elif present:
            self.v.grad = _join([v_grad for v_grad, _ in grads])
            self.g.grad = _join([g_grad for _, g_grad in grads])
        return present

    def drop_gradients(self) -> None:
        """Frees them after the step; those of w stay with their owner."""
        for tensor in (part for parts in self.parameters() for part in parts):
            tensor.grad = None

    def fall_apart(self, inner_state: dict[Tensor, Any]) -> None:
        """Gives each pair its share of the base optimizer's state."""
        for pair, v_state, g_state in self.states(inner_state):
            inner_state[pair.v], inner_state[pair.g] = v_state, g_state
        inner_state.pop(self.v, None)
        inner_state.pop(self.g, None)
        self.joined = False

    def states(self, inner_state: dict[Tensor, Any]) -> Iterator[tuple[Pair, Any, Any]]:
        """Each pair with the base optimizer's state of its v and of its g, copied if joined."""
        if not self.joined:
            yield from ((p, inner_state.get(p.v, {}), inner_state.get(p.g, {})) for p in self.pairs)
            return
        v_states = _split_state(inner_state.get(self.v, {}), [pair.v for pair in self.pairs])
        g_states = _split_state(inner_state.get(self.g, {}), [pair.g for pair in self.pairs])
        yield from zip(self.pairs, v_states, g_states, strict=True)

    def load(self, inner_state: dict[Tensor, Any], states: list[tuple[Any, Any]]) -> None:
        """The opposite of ``states``, one (state of v, state of g) for each pair."""
        v_state = _join_states([v for v, _ in states], [pair.v for pair in self.pairs])
        g_state = _join_states([g for _, g in states], [pair.g for pair in self.pairs])
        if v_state is None or g_state is None:  # they did not always move together
            self.joined = False
            for pair, (of_v, of_g) in zip(self.pairs, states, strict=True):
                inner_state[pair.v], inner_state[pair.g] = of_v, of_g
        else:
            inner_state[self.v], inner_state[self.g] = v_state, g_state


def _join(tensors: list[Tensor]) -> Tensor:
    """All numbers in one row; without a copy where there is one tensor only."""
    if len(tensors) == 1:
        return tensors[0].flatten()
    return torch.cat([tensor.flatten() for tensor in tensors])


def _split_state(state: dict[str, Any], parts: list[Tensor]) -> list[dict[str, Any]]:
    total = sum(part.numel() for part in parts)
    split: list[dict[str, Any]] = [{} for _ in parts]
    for key, value in state.items():
        if isinstance(value, Tensor) and value.dim() == 1 and value.numel() == total:
            pieces = value.split([part.numel() for part in parts])
            for one, piece, part in zip(split, pieces, parts, strict=True):
                one[key] = piece.view(part.shape).clone()
        else:
            for one in split:
                one[key] = value.clone() if isinstance(value, Tensor) else value
    return split


def _join_states(states: list[dict[str, Any]], parts: list[Tensor]) -> dict[str, Any] | None:
    """One state for the long tensor; None if the parts have different ones."""
    joined: dict[str, Any] = {}
    if any(state.keys() != states[0].keys() for state in states):
        return None
    for key, first in states[0].items():
        values = [state[key] for state in states]
        if isinstance(first, Tensor) and first.dim():
            if any(v.shape != part.shape for v, part in zip(values, parts, strict=True)):
                return None
            joined[key] = torch.cat([value.flatten() for value in values])
        elif any(value != first for value in values):
            return None
        else:
            joined[key] = first
    return joined


def _units_first(like_w: Tensor, transposed: int) -> Tensor:
    """``(in, out / groups, …) -> (groups, out / groups, in / groups, …)`` if transposed."""
    return like_w.unflatten(0, (transposed, -1)).transpose(1, 2) if transposed else like_w


def _has_kernel(v: Tensor) -> bool:
    """Whether torch's fused kernel, which has no eps, takes ``v``."""
    return v.dtype == torch.float32 and v.device.type in ("cpu", "cuda")
