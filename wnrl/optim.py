"""Weight norm as part of the optimizer, projection after each step, and parameter groups.

The network stays plain; the optimizer owns v and g, receives ∇w, steps on v and g with the
gradients of equation 3 (Salimans & Kingma 2016, arXiv:1602.07868) and writes w = g v/‖v‖ back::

    optimizer = WNAdam(net.parameters(), lr=3e-4)
"""

import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from wnrl.errors import UsageError, check_positive
from wnrl.nn.functional import row_norm, split_weight
from wnrl.nn.projection import TRANSPOSED, project_, projected_weights

GROUP_DEFAULTS: dict[str, Any] = {"weight_norm": True, "transposed": 0, "g_lr_scale": 1.0}
"""What a parameter group may say beside the options of the base optimizer."""
_SAME = 8
"""How many units in the last place w may be from g v/‖v‖, computed on another device perhaps."""
_OUTER_KEYS = {"params", "param_names", *GROUP_DEFAULTS}


@dataclass
class _Pair:
    """One weight w of the network and the (v, g) behind it.

    v has the output units in axis 0, where w has them too unless it is transposed; g is ``(units,
    1, …)``. Both are float32 or wider.
    """

    w: Tensor
    transposed: int
    v: Tensor
    g: Tensor
    norm: Tensor
    """‖v‖, shaped as g."""
    written: Tensor | None = None
    """w as last written; it holds the storage, so that the address cannot be given to another."""
    version: int = -1

    def units_first(self, like_w: Tensor) -> Tensor:
        """``(units, …)``: a view of ``like_w`` but for transposed convolutions with groups."""
        return _units_first(like_w, self.transposed).reshape(self.v.shape)

    def effective(self) -> Tensor:
        """``g v/‖v‖``, shaped as v; ``norm`` becomes the ‖v‖ that went into it."""
        if _has_kernel(self.v):
            new, self.norm = torch._weight_norm_interface(self.v, self.g, 0)
            return new
        self.norm = row_norm(self.v)
        return self.v * (self.g / self.norm)

    def gradients(self) -> tuple[Tensor, Tensor]:
        """∇g = ∇w·v/‖v‖ and ∇v = g/‖v‖ ∇w − g ∇g/‖v‖² v (eq. 3), v first."""
        assert self.w.grad is not None
        # torch's fused optimizers ignore strides: a gradient must be laid out as its tensor is.
        grad = self.units_first(self.w.grad).to(self.v.dtype).contiguous()
        if _has_kernel(self.v):
            return torch.ops.aten._weight_norm_interface_backward(
                grad, self.v, self.g, self.norm, 0
            )
        along = (grad * self.v).flatten(1).sum(1).view_as(self.g) / self.norm
        return self.g / self.norm * (grad - self.v * (along / self.norm)), along

    def is_as_written(self) -> bool:
        """Whether nobody wrote w since this optimizer did, as far as torch counts writes."""
        return (
            self.written is not None
            and self.w._version == self.version
            and self.w.data_ptr() == self.written.data_ptr()
        )

    def mark_written(self) -> None:
        self.written, self.version = self.w.detach(), self.w._version


def _units_first(like_w: Tensor, transposed: int) -> Tensor:
    """``(in, out / groups, …) -> (groups, out / groups, in / groups, …)`` if transposed."""
    return like_w.unflatten(0, (transposed, -1)).transpose(1, 2) if transposed else like_w


def _has_kernel(v: Tensor) -> bool:
    """Whether torch's fused kernel, which has no eps, takes ``v``."""
    return v.dtype == torch.float32 and v.device.type in ("cpu", "cuda")


class WeightNormalized(Optimizer):
    """An optimizer on (v, g) for a network that holds w; see ``weight_normalized``.

    Every parameter with two axes or more is a weight, with one g for each slice along axis 0
    (embeddings too: one for each word). A parameter group may differ: ``weight_norm=False`` leaves
    its parameters to the base optimizer; ``transposed=n`` says that they are weights of transposed
    convolutions with n groups, whose output channels are in axis 1; ``g_lr_scale`` multiplies the
    learning rate of g. ``param_groups(module)`` makes such groups. ``weight_decay`` does not act on
    v (it would only raise the effective learning rate) nor on g (it would shrink w), so it acts on
    what is not weight-normalized alone.

    v and g are float32 or wider, whatever the type of w. If someone writes w between two steps
    (``load_state_dict``, an average, a new ``.data``), v takes the new direction with its old
    length and g the new length. In-place writes through ``.data`` are invisible: call ``resync()``.

    Args:
        params: parameters or parameter groups.
        *args: arguments of the base optimizer.
        v_init_std: root mean square at which the rows of v start; None starts v as w.
        **kwargs: arguments of the base optimizer.

    Raises:
        UsageError: a weight has an empty dimension, a number is out of range, or the base
            optimizer needs more than one evaluation a step.
    """

    base: ClassVar[type[Optimizer]]
    """The optimizer that steps on v, g and the other parameters."""

    def __init__(
        self,
        params: Any,
        *args: Any,
        v_init_std: float | None = None,
        **kwargs: Any,
    ) -> None:
        if v_init_std is not None:
            check_positive(v_init_std=v_init_std)
        self.v_init_std = v_init_std
        self._pairs: dict[Tensor, _Pair] = {}
        # The base optimizer refuses an empty list; what it steps on is set at each step.
        self._inner = self.base([torch.zeros(1)], *args, **kwargs)
        if not {"fused", "foreach"} & kwargs.keys():
            self._inner.defaults |= _fastest(self.base)
        super().__init__(params, {**self._inner.defaults, **GROUP_DEFAULTS})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As every optimizer's; the constructor calls it for each group."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for w in group["params"]:
            if group["weight_norm"] and w.dim() > 1:
                self._pairs[w] = self._split(w, group["transposed"])
        self._link_state()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of the base optimizer on v, g and what is not weight-normalized.

        Args:
            closure: evaluates the loss anew and returns it; called once.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        pairs = [pair for pair in self._pairs.values() if pair.w.grad is not None]
        for pair in pairs:
            if not pair.is_as_written():
                self._follow(pair)
            pair.v.grad, pair.g.grad = pair.gradients()
        self._inner.param_groups = [
            inner for group in self.param_groups for inner in self._inner_groups(group)
        ]
        self._inner.step()
        if pairs:
            new = [pair.effective() for pair in pairs]
            self._write(pairs, new)
        return loss

    def _inner_groups(self, group: dict[str, Any]) -> list[dict[str, Any]]:
        """The groups of the base optimizer: one if it may treat v, g and the rest alike."""
        options = {name: value for name, value in group.items() if name not in _OUTER_KEYS}
        rest = [w for w in group["params"] if w not in self._pairs]
        pairs = [self._pairs[w] for w in group["params"] if w in self._pairs]
        vs, gs = [pair.v for pair in pairs], [pair.g for pair in pairs]
        scale = group["g_lr_scale"]
        if not options.get("weight_decay") and scale == 1:
            return [{**options, "params": rest + vs + gs}]
        undecayed = {**options, "weight_decay": 0.0}
        return [
            {**options, "params": rest},
            {**undecayed, "params": vs},
            {**undecayed, "params": gs, "lr": group["lr"] * scale},
        ]

    @torch.no_grad()
    def resync(self) -> None:
        """Derives v and g from w wherever w is no longer g v/‖v‖, but for rounding.

        ``step`` does it by itself for every write that torch counts.
        """
        for pair in self._pairs.values():
            self._follow(pair)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resumes bit for bit, where the network is loaded as well (in either order).

        Raises:
            UsageError: the state of a weight has no v and g: another optimizer's.
        """
        indices = (i for group in state_dict["param_groups"] for i in group["params"])
        params = (w for group in self.param_groups for w in group["params"])
        for index, w in zip(indices, params, strict=False):
            if w in self._pairs and not {"v", "g"} <= set(state_dict["state"].get(index, {})):
                raise UsageError(
                    f"the state of parameter {index} has no v and g: "
                    f"it was saved by another optimizer than {type(self).__name__}"
                )
        super().load_state_dict(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        own = {name: vars(self)[name] for name in ("v_init_std", "_pairs", "_inner")}
        return {**super().__getstate__(), **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for pair in self._pairs.values():
            pair.written = None  # w is another tensor, or v and g are: compare their values
        self._link_state()

    def _split(self, w: Tensor, transposed: int) -> _Pair:
        if not w.numel():
            raise UsageError(f"a weight must have no empty axis, got shape {tuple(w.shape)}")
        wide = w.detach().to(torch.promote_types(w.dtype, torch.float32))
        rows = _units_first(wide, transposed)
        rows = (rows.flatten(0, 1) if transposed else rows).contiguous()
        v, g = split_weight(rows, v_std=self.v_init_std)
        return _Pair(w, transposed, v, g, row_norm(v))

    @staticmethod
    def _write(pairs: list[_Pair], new: list[Tensor]) -> None:
        targets = [_units_first(pair.w.detach(), pair.transposed) for pair in pairs]
        shaped = [value.view(t.shape) for value, t in zip(new, targets, strict=True)]
        torch._foreach_copy_(targets, shaped)
        for pair in pairs:
            pair.mark_written()
            pair.v.grad = pair.g.grad = None

    @staticmethod
    def _follow(pair: _Pair) -> None:
        """Where w is not g v/‖v‖ any more: v takes its direction and keeps its length, g = ‖w‖."""
        expected, w = pair.effective(), pair.units_first(pair.w.detach())
        tolerance = _SAME * torch.finfo(w.dtype).eps
        if not torch.allclose(expected.to(w.dtype), w, atol=0.0, rtol=tolerance):
            direction, length = split_weight(w.to(pair.v.dtype))
            direction *= pair.norm / row_norm(direction)
            pair.v.copy_(direction)
            pair.g.copy_(length)
            pair.norm = row_norm(pair.v)
        pair.mark_written()

    def _link_state(self) -> None:
        """Makes ``self.state`` show v, g and the base optimizer's own state of each."""
        for w in (w for group in self.param_groups for w in group["params"]):
            state, inner = self.state[w], self._inner.state
            if w not in self._pairs:
                inner[w] = state
                continue
            pair = self._pairs[w]
            for key, tensor in (("v", pair.v), ("g", pair.g)):
                if state.get(key, tensor) is not tensor:
                    tensor.copy_(state[key])
                state[key] = tensor
                inner[tensor] = state.setdefault(f"{key}_state", inner[tensor])


def _fastest(base: type[Optimizer]) -> dict[str, bool]:
    """One kernel launch for many tensors, where ``base`` has it; the numbers stay."""
    known = inspect.signature(base).parameters
    if "fused" in known:
        return {"fused": True}
    return {"foreach": True} if "foreach" in known else {}


@functools.cache
def weight_normalized(base: type[Optimizer]) -> type[WeightNormalized]:
    """``base`` with optimizer-side weight norm: takes its arguments, and those of WeightNormalized.

    Bind the class to a module-level name, ``WNMine = weight_normalized(Mine)``, if it has to be
    pickled. ``base`` should treat every parameter by itself and elementwise, as those of
    ``torch.optim`` do, but for LBFGS (many evaluations a step), SparseAdam, Adafactor and Muon.

    Raises:
        UsageError: ``base`` is one of those.
    """
    if base.__name__ in ("LBFGS", "SparseAdam", "Adafactor", "Muon"):
        raise UsageError(f"base must update each number by itself, {base.__name__} does not")
    caller = sys._getframe(1).f_globals.get("__name__", __name__)
    body = {"base": base, "__doc__": WeightNormalized.__doc__, "__module__": caller}
    return type(f"WN{base.__name__}", (WeightNormalized,), body)


WNSGD = weight_normalized(torch.optim.SGD)
WNAdam = weight_normalized(torch.optim.Adam)
WNAdamW = weight_normalized(torch.optim.AdamW)
WNAdamax = weight_normalized(torch.optim.Adamax)
WNRMSprop = weight_normalized(torch.optim.RMSprop)


def param_groups(
    module: nn.Module, lr: float, weight_decay: float = 0.0, g_lr_scale: float = 1.0
) -> list[dict[str, Any]]:
    """Parameter groups in which only plain weights decay.

    Weight decay on v only raises the effective learning rate and on g shrinks w; biases and the
    scales of normalisers have one axis and do not decay either. The groups suit any optimizer: for
    a converted network, g has a group of its own; for a plain one, the weight-normalizing
    optimizers of this module read from them the learning rate of g, and which convolutions are
    transposed.

    Args:
        module: a plain or a converted network.
        lr: learning rate.
        weight_decay: for plain weights, with two axes or more.
        g_lr_scale: factor on the learning rate of g.

    Returns:
        Groups with each parameter of ``module`` once; groups without members are left out.

    Raises:
        UsageError: ``lr`` or ``g_lr_scale`` is not above zero, or ``weight_decay`` is below.
    """
    check_positive(lr=lr, g_lr_scale=g_lr_scale)
    if weight_decay < 0:
        raise UsageError(f"weight_decay must not be below zero, got {weight_decay!r}")
    shared = {"lr": lr, "weight_decay": 0.0, "weight_norm": False}
    lengths: dict[str, Any] = {**shared, "lr": lr * g_lr_scale, "params": []}
    undecayed: dict[str, Any] = {**shared, "params": []}
    weights: dict[int, dict[str, Any]] = {}
    seen: set[int] = set()
    for layer in module.modules():
        own = dict(layer.named_parameters(recurse=False))
        for name, parameter in own.items():
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            stem, _, part = name.rpartition("_")
            if part in ("g", "v") and f"{stem}_g" in own and f"{stem}_v" in own:
                (lengths if part == "g" else undecayed)["params"].append(parameter)
            elif parameter.dim() < 2:
                undecayed["params"].append(parameter)
            else:
                groups = layer.groups if isinstance(layer, TRANSPOSED) else 0
                plain = {"lr": lr, "weight_decay": weight_decay, "g_lr_scale": g_lr_scale}
                group = weights.setdefault(groups, {**plain, "transposed": groups, "params": []})
                group["params"].append(parameter)
    return [group for group in (*weights.values(), undecayed, lengths) if group["params"]]


class ProjectionHook:
    """What ``project_after_step`` registers: ``project_(module)`` after each step; picklable."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Called by torch after ``optimizer.step``."""
        project_(self.module)


def project_after_step(optimizer: Optimizer, module: nn.Module) -> RemovableHandle:
    """Puts the marked rows of ``module`` back on the unit sphere after each step.

    Args:
        optimizer: the one that trains ``module``.
        module: converted with ``convert(module, "projected")``.

    Returns:
        A handle whose ``remove()`` ends it.

    Raises:
        UsageError: no layer of ``module`` is marked, so that nothing would happen.
    """
    if not projected_weights(module):
        raise UsageError('module has no projected layers: call convert(module, "projected") first')
    return optimizer.register_step_post_hook(ProjectionHook(module))
