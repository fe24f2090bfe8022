"""Weight norm as part of the optimizer, and parameter groups.

The network stays plain; the optimizer owns v and g, receives ∇w, steps on v and g with the
gradients of equation 3 (Salimans & Kingma 2016, arXiv:1602.07868) and writes w = g v/‖v‖ back::

    optimizer = WNAdam(param_groups(net, lr=3e-4))
"""

import copy
import functools
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Adamax, AdamW, Optimizer, RMSprop

from wnrl.arguments import check, checked, fault, shown
from wnrl.errors import UsageError, check_positive, first_line
from wnrl.limits import FromZero, Positive
from wnrl.nn import functional, projection
from wnrl.nn.functional import row_norm, split_weight, transposed_groups, units_first, wide_dtype
from wnrl.nn.normed_lstm import NormedRecurrent
from wnrl.nn.sites import EMBEDDINGS, WEIGHTED

WITH_WEIGHTS = (*WEIGHTED, *EMBEDDINGS, NormedRecurrent)
"""Types of layers that multiply with a weight."""
WEIGHT_NAMES = re.compile(r"weight(_(ih|hh|hr)(_l\d+(_reverse)?)?)?|(in|q|k|v)_proj_weight")
"""Names of the weights of these layers."""
BASES = (SGD, Adam, AdamW, Adamax, RMSprop)
"""What ``weight_normalized`` takes."""
Pair = tuple[Tensor, Tensor]
"""The v and g that stand for a weight in a step."""


project_ = checked(projection.project_)  # what the loop calls after each step


@checked
def layer_weights(layer: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the plain weights that ``layer`` itself has, by its type and their names.

    The scales and biases of normalizers, embeddings of positions and other parameters of a
    module's own, the v and g of weight norm, and what torch parametrizes are none.
    """
    if isinstance(layer, WITH_WEIGHTS):
        for name, parameter in layer.named_parameters(recurse=False):
            if WEIGHT_NAMES.fullmatch(name):
                yield parameter


@checked
def param_groups(
    module: nn.Module, lr: Positive, weight_decay: FromZero = 0.0, g_lr_scale: Positive = 1.0
) -> list[dict[str, Any]]:
    """Return parameter groups in which only plain weights decay, as ``layer_weights`` finds them.

    Weight decay on v only raises the effective learning rate and on g shrinks w. The groups suit
    any optimizer: for a converted network, g has a group of its own; for a plain one, the
    weight-normalizing optimizers of this module read from them which parameters are weights, the
    learning rate of g, and which convolutions are transposed.

    Args:
        module: a plain or a converted network.
        lr: learning rate.
        weight_decay: for plain weights.
        g_lr_scale: factor on the learning rate of g.

    Returns:
        Groups with each parameter of ``module`` once; groups without members are left out.

    Raises:
        UsageError: ``lr`` or ``g_lr_scale`` is not above zero, ``weight_decay`` is below, or one of
            them is not finite.
    """
    groups: dict[int | str, dict[str, Any]] = {}
    seen: set[nn.Parameter] = set()

    def put(parameter: nn.Parameter, kind: int | str, **options: Any) -> None:
        if parameter not in seen:
            group = groups.setdefault(kind, {"lr": lr, "params": [], **options})
            group["params"].append(parameter)
            seen.add(parameter)

    decayed = {"weight_decay": weight_decay, "g_lr_scale": g_lr_scale}
    for layer in module.modules():
        for weight in layer_weights(layer):
            transposed = transposed_groups(layer)
            put(weight, transposed, **decayed, transposed=transposed, plain=[])
    undecayed = {"weight_decay": 0.0, "weight_norm": False}
    for layer in module.modules():
        members = dict(layer.named_parameters(recurse=False))
        for name, parameter in members.items():
            if name.endswith("_g") and f"{name.removesuffix('_g')}_v" in members:
                put(parameter, "lengths", **undecayed, lr=lr * g_lr_scale)
            else:
                put(parameter, "others", **undecayed)
    last = [groups.pop(kind) for kind in ("others", "lengths") if kind in groups]
    return [*groups.values(), *last]


@checked
class WeightNormalized(Optimizer):
    """An optimizer on (v, g) for a network that holds w; see ``weight_normalized``.

    ``param_groups(module)`` says by the type of each layer which parameters are weights. Of
    parameters that come without their module, those with two axes or more are, unless all of their
    numbers are equal at first, as in scales and biases of normalizers; ``plain``, of a group, lists
    the indices of such. A weight has one g for each slice along axis 0 (embeddings too: one for
    each word); one whose slices hold a single number each has no directions and is left alone.

    Further options of a parameter group: ``weight_norm=False`` leaves its parameters to the base
    optimizer; ``transposed=n`` says that they are weights of transposed convolutions with n groups,
    whose output channels are in axis 1; ``g_lr_scale`` multiplies the learning rate of g.
    ``weight_decay`` acts neither on v (it would only raise the effective learning rate) nor on g
    (it would shrink w), so it acts on what is not weight-normalized alone.

    v and g are float32 or wider, whatever the type of w; Adam, AdamW and SGD step on them with
    torch's fused kernels unless ``fused`` or ``foreach`` is given. If someone writes w between two
    steps, v takes the new direction with its old length and g the new length. A row of zeros takes
    the direction −∇w of the first step that has one.

    Args:
        params: parameters or parameter groups.
        *args: arguments of the base optimizer.
        v_init_std: root mean square at which the rows of v start; None starts v as w.
        **kwargs: arguments of the base optimizer.

    Raises:
        UsageError: a weight is empty, complex or without values, a number is out of range, or
            ``differentiable`` is asked for.
    """

    base: ClassVar[type[Optimizer]]
    """The optimizer that steps on v, g and the other parameters."""

    def __init__(
        self, params: Iterable[Any], *args: Any, v_init_std: float | None = None, **kwargs: Any
    ) -> None:
        if kwargs.get("differentiable"):
            raise UsageError("differentiable must be False: steps on v and g are not recorded")
        shared = {"weight_norm": True, "transposed": 0, "g_lr_scale": 1.0}
        options = {**shared, "v_init_std": v_init_std, "base": self.base.__name__}
        params = list(params)
        groups = params if params and isinstance(params[0], dict) else [{"params": params}]
        check(self.base, (params, *args), kwargs)
        base_init: Any = super().__init__
        try:
            base_init([{**options, **group} for group in groups], *args, **kwargs)
        except UsageError:
            raise
        except ValueError as error:
            raise UsageError(f"{type(self).__name__}: {first_line(error)}") from error
        self.defaults |= options

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as every optimizer does; the constructor calls it for each."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            check_positive(g_lr_scale=group["g_lr_scale"])
            functional.check_deviation(group["v_init_std"])
            if fault("transposed", group["transposed"], int) or group["transposed"] < 0:
                raise UsageError(
                    f"transposed must be 0 or a number of groups, got {group['transposed']!r}"
                )
            of_base = inspect.signature(self.base).parameters
            for name in (of_base.keys() & group.keys()) - {"params"}:
                if text := fault(name, group[name], of_base[name].annotation):
                    raise UsageError(text)
            if "plain" not in group:
                params = enumerate(group["params"])
                group["plain"] = [i for i, w in params if w.dim() > 1 and _is_constant(w)]
            self.state.update({w: _new_state(w, group) for w in _weights(group)})
        except UsageError:
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step of the base optimizer on v, g and what is not weight-normalized.

        Args:
            closure: evaluates the loss anew and returns it; called once.

        Raises:
            UsageError: the gradient of a weight is sparse.
        """
        with torch.enable_grad():
            loss = None if closure is None else closure()
        outer_groups, inner_groups = self.param_groups, []
        opened: dict[Tensor, Pair] = {}
        for group in outer_groups:
            weights = _weights(group)
            pairs = {w: self._open(w, group) for w in weights if w.grad is not None}
            inner_groups += _inner_groups(group, weights, [*pairs.values()])
            opened |= pairs
        try:
            for w, (v, g) in opened.items():
                self.state[v], self.state[g] = self.state[w]["v_state"], self.state[w]["g_state"]
            self.param_groups = inner_groups
            base_step: Any = self.base.step
            # without torch's hooks, which are for the step that the user calls
            (base_step.__wrapped__ if hasattr(base_step, "hooked") else base_step)(self)
        finally:
            self.param_groups = outer_groups
            for v, g in opened.values():
                self.state.pop(v, None)
                self.state.pop(g, None)
        for group in outer_groups:
            for w in filter(opened.__contains__, group["params"]):
                target = units_first(w, group["transposed"])
                target.copy_(_compute(*opened[w], 0)[0].view(target.shape))
        return loss

    def _open(self, w: Tensor, group: dict[str, Any]) -> Pair:
        """Return v and g of ``w`` with their gradients; first they follow what was written to w."""
        assert w.grad is not None
        if w.grad.layout is not torch.strided:
            raise UsageError(
                f"a weight of shape {tuple(w.shape)} must have a dense gradient, got a sparse one: "
                "make its layer with sparse=False, or its group with weight_norm=False"
            )
        if w not in self.state:
            self.state[w] = _new_state(w, group)
        # the same storage, whose gradients are forgotten with the step
        v, g = self.state[w]["v"].detach(), self.state[w]["g"].detach()
        rows, grad = (_rows(tensor.detach(), group["transposed"]) for tensor in (w, w.grad))
        grad = grad.to(v.dtype).contiguous()
        computed, norms = _compute(v, g, 0)
        if not torch.equal(computed.to(w.dtype), rows):
            direction, length = split_weight(rows.to(v.dtype), v_std=functional.ZERO_ROW_STD)
            v.copy_(direction * (norms / row_norm(direction)))
            g.copy_(length)
            norms = row_norm(v)
        if not g.all():  # a row of w is zero: its first direction is that of steepest descent
            size = row_norm(grad, eps=0.0)
            turned = (g == 0) & (size > 0) & size.isfinite()
            v.copy_(torch.where(turned, -grad * (norms / size), v))
        v.grad, g.grad = _gradients(grad, v, g, norms, 0)
        return v, g

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume bit for bit, where the network is loaded as well (in either order).

        Raises:
            UsageError: it is no state of an optimizer, or of one with another base; the state of a
                weight lacks v or g, or has one of another shape (another network's). The optimizer
                is unchanged.
        """
        if not isinstance(state_dict, dict) or not {"state", "param_groups"} <= state_dict.keys():
            raise UsageError(
                f"state_dict must be that of an optimizer, with state and param_groups, "
                f"got {shown(state_dict)}"
            )
        state_dict = copy.deepcopy(state_dict)  # torch would go on sharing its tensors
        exact = {}
        for own, saved in zip(self.param_groups, state_dict["param_groups"], strict=False):
            if (base := saved.get("base", own["base"])) != own["base"]:
                raise UsageError(
                    f"the state was saved by WN{base}, and this is {type(self).__name__}"
                )
            saved |= {**own, **saved}  # what it does not say is as here
            weights = set(_weights({**saved, "params": own["params"]}))
            for w, index in zip(own["params"], saved["params"], strict=False):
                if w in weights:
                    exact[w] = state_dict["state"].get(index, {})
                    self._check_state(index, exact[w], self.state.get(w, exact[w]))
        super().load_state_dict(state_dict)
        for w, state in exact.items():  # torch casts state to the type of its parameter, maybe bf16
            self.state[w] = _moved(state, w)

    def _check_state(self, index: int, state: dict[str, Any], current: dict[str, Any]) -> None:
        if not {"v", "g", "v_state", "g_state"} <= state.keys():
            raise UsageError(
                f"the state of parameter {index} has no v and g: it was saved by another optimizer "
                f"than {type(self).__name__}"
            )
        for key in ("v", "g"):
            functional.check_shape(f"{key} of parameter {index}", state[key], current[key].shape)

    def __setstate__(self, state: dict[str, Any]) -> None:
        Optimizer.__setstate__(self, state)  # the base's looks for its own keys beside v and g


# Equations 2 and 3 by torch's kernels: g v/‖v‖ with the norms, and ∇v with ∇g. The norms of the
# rows of v are those of a weight when it was split, or more: there is nothing to be told of zero.
_compute: Any = torch._weight_norm_interface
_gradients: Any = torch.ops.aten._weight_norm_interface_backward.default


def _weights(group: dict[str, Any]) -> list[Tensor]:
    """Return the parameters of ``group`` for which the optimizer has v and g."""
    plain, transposed = set(group["plain"]), group["transposed"]
    return [
        w
        for index, w in enumerate(group["params"])
        if group["weight_norm"]
        and index not in plain
        and w.dim() > 1
        and (not w.numel() or w.numel() > (transposed * w.shape[1] if transposed else len(w)))
    ]


def _inner_groups(
    group: dict[str, Any], weights: list[Tensor], pairs: list[Pair]
) -> list[dict[str, Any]]:
    """Return what the base optimizer steps on for ``group``: plain parameters, v and g.

    They are one group where they have the same options. Unless told otherwise, one kernel takes
    all of it where torch has one.
    """
    held = set(weights)
    plain = [p for p in group["params"] if p not in held]
    vs, gs = [v for v, _ in pairs], [g for _, g in pairs]
    options = dict(group)
    if "fused" in group and group["fused"] is group["foreach"] is None:
        options["fused"] = all(map(_fits_fused, (*plain, *vs))) or None
    if not group["weight_decay"] and group["g_lr_scale"] == 1:
        return [{**options, "params": [*plain, *vs, *gs]}]
    undecayed = {**options, "weight_decay": 0.0}
    return [
        {**options, "params": plain},
        {**undecayed, "params": vs},
        {**undecayed, "params": gs, "lr": group["lr"] * group["g_lr_scale"]},
    ]


def _fits_fused(p: Tensor) -> bool:
    """Return whether torch's fused kernels take ``p`` and its gradient."""
    is_dense = p.grad is None or p.grad.layout is torch.strided
    return is_dense and p.is_floating_point() and p.device.type in ("cpu", "cuda")


def _is_constant(w: Tensor) -> bool:
    return w.numel() > 0 and not w.is_meta and bool((w == w.flatten()[0]).all())


def _rows(like_w: Tensor, transposed: int) -> Tensor:
    """Return what is shaped as a weight with its output units in axis 0."""
    return units_first(like_w, transposed).flatten(0, 1) if transposed else like_w


@torch.no_grad()
def _new_state(w: Tensor, group: dict[str, Any]) -> dict[str, Any]:
    """Return the state that starts a weight; raise UsageError where it can have none."""
    shape, transposed = tuple(w.shape), group["transposed"]
    if not w.numel():
        raise UsageError(f"a weight must have no empty axis, got shape {shape}")
    if w.is_meta:
        raise UsageError(f"a weight must have values, got shape {shape} on device meta")
    if transposed and len(w) % transposed:
        raise UsageError(
            f"transposed={transposed} must divide the input channels of a weight of shape {shape}"
        )
    wide = _rows(w.detach(), transposed).to(wide_dtype(w.dtype)).contiguous()
    v, g = split_weight(wide, v_std=group["v_init_std"])
    return {"v": v, "g": g, "v_state": {}, "g_state": {}}


def _moved(state: Any, w: Tensor) -> Any:
    """Return the state of a weight, nested, on its device and, but for counters, of v's type."""
    if isinstance(state, dict):
        return {key: _moved(value, w) for key, value in state.items()}
    if isinstance(state, Tensor):
        return state.to(w.device, wide_dtype(w.dtype) if state.dim() else state.dtype)
    return state


@checked
@functools.cache
def weight_normalized(base: type[Optimizer]) -> type[WeightNormalized]:
    """Return ``base`` with weight norm: it takes its arguments, and those of WeightNormalized.

    Raises:
        UsageError: ``base`` is not one of ``BASES``, whose rules are elementwise.
    """
    if base not in BASES:
        known = ", ".join(known.__name__ for known in BASES)
        raise UsageError(f"base must be one of torch's {known}, got {base.__name__}")
    body = {"base": base, "__doc__": WeightNormalized.__doc__, "__module__": __name__}
    return type(f"WN{base.__name__}", (WeightNormalized, base), body)


WNSGD, WNAdam, WNAdamW, WNAdamax, WNRMSprop = map(weight_normalized, BASES)
