"""Optimizers that own v and g, and write w = g v/‖v‖ into a plain network."""

import copy
import functools
import inspect
import sys
from collections import defaultdict
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from wnrl.errors import UsageError, check_positive
from wnrl.optim.pairs import SMALL, Bundle, Pair, write_weights

GROUP_DEFAULTS: dict[str, Any] = {"weight_norm": True, "transposed": 0, "g_lr_scale": 1.0}
"""What a parameter group may say beside the options of the base optimizer."""
_OUTER_KEYS = {"params", "param_names", *GROUP_DEFAULTS}


class WeightNormalized(Optimizer):
    """An optimizer on (v, g) for a network that holds w; see ``weight_normalized``.

    Every parameter with two axes or more is a weight, with one g for each slice along axis 0
    (embeddings too: one for each word); but one whose slices hold a single number each, as the
    ``(features, 1)`` of stable-baselines3's gSDE, has no directions and is left alone. A parameter
    group may differ: ``weight_norm=False`` leaves its parameters to the base optimizer;
    ``transposed=n`` says that they are weights of transposed convolutions with n groups, whose
    output channels are in axis 1; ``g_lr_scale`` multiplies the learning rate of g.
    ``param_groups(module)`` makes such groups, and leaves alone what ``convert`` has
    weight-normalized already. ``weight_decay`` does not act on v (it would only raise the effective
    learning rate) nor on g (it would shrink w), so it acts on what is not weight-normalized alone.

    v and g are float32 or wider, whatever the type of w. If someone writes w between two steps
    (``load_state_dict``, an average, a new ``.data``), v takes the new direction with its old
    length and g the new length. In-place writes through ``.data`` are invisible: call ``resync()``.

    Args:
        params: parameters or parameter groups.
        *args: arguments of the base optimizer.
        v_init_std: root mean square at which the rows of v start; None starts v as w.
        **kwargs: arguments of the base optimizer.

    Raises:
        UsageError: a weight has an empty dimension, a number is out of range, or
            ``differentiable`` is asked for.
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
        if kwargs.get("differentiable"):
            raise UsageError("differentiable must be False: steps on v and g are not recorded")
        self.v_init_std = v_init_std
        self._bundles: list[list[Bundle]] = []  # one list for each parameter group
        # The base optimizer refuses an empty list; what it steps on is set at each step.
        self._inner = self.base([torch.zeros(1)], *args, **kwargs)
        self._plain_steps: dict[str, Any] = {}
        if not {"fused", "foreach"} & kwargs.keys():
            fastest = _fastest(self.base)
            self._plain_steps = {key: self._inner.defaults[key] for key in fastest}
            self._inner.defaults |= fastest
        super().__init__(params, {**self._inner.defaults, **GROUP_DEFAULTS})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As every optimizer's; the constructor calls it for each group."""
        super().add_param_group(param_group)
        try:
            self._adopt(self.param_groups[-1])
        except UsageError:
            self.param_groups.pop()
            raise

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
        moving: list[Pair] = []
        inner_groups = []
        for group, bundles in zip(self.param_groups, self._bundles, strict=True):
            for bundle in bundles:
                moving += bundle.give_gradients(self._inner.state)
            inner_groups += _inner_groups(group, bundles, self._plain_steps)
        self._inner.param_groups = inner_groups
        self._inner.step()
        if moving:
            write_weights(moving)
        for bundles in self._bundles:
            for bundle in bundles:
                bundle.drop_gradients()
        return loss

    @torch.no_grad()
    def resync(self) -> None:
        """Derives v and g from w wherever w is no longer g v/‖v‖, but for rounding.

        ``step`` does it by itself for every write that torch counts.
        """
        for bundle in (bundle for bundles in self._bundles for bundle in bundles):
            for pair in bundle.pairs:
                pair.follow()

    def state_dict(self) -> dict[str, Any]:
        """torch's, where the state of a weight is v, g and the base optimizer's state of each."""
        self._show_state()
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resumes bit for bit, where the network is loaded as well (in either order).

        Raises:
            UsageError: the state of a weight lacks v or g (another optimizer's), or a tensor is of
                another shape (another network's). The optimizer is unchanged.
        """
        state_dict = copy.deepcopy(state_dict)  # torch would go on sharing its tensors
        indices = (i for group in state_dict["param_groups"] for i in group["params"])
        params = (w for group in self.param_groups for w in group["params"])
        exact = {}
        for index, w in zip(indices, params, strict=False):
            state = state_dict["state"].get(index, {})
            own = self.state[w]
            if "v" in own:
                self._check_state(f"parameter {index}", state, own)
                exact[w] = state
            else:
                _check_shapes(f"parameter {index}", state, w)
        super().load_state_dict(state_dict)
        # torch casts state to the type of its parameter, which may be bf16.
        for w, state in exact.items():
            self.state[w] = state
        self._adopt_all()

    def _check_state(self, where: str, state: dict[str, Any], own: dict[str, Any]) -> None:
        """Raises UsageError where ``state`` cannot be that of a weight whose state is ``own``."""
        if "v" not in state and "g" not in state:
            raise UsageError(
                f"the state of {where} has no v and g: "
                f"it was saved by another optimizer than {type(self).__name__}"
            )
        for key in ("v", "g"):
            if key not in state:
                raise UsageError(f"the state of {where} lacks {key}")
            _check_shapes(where, {key: state[key]}, own[key])
        for key in ("v", "g"):
            if f"{key}_state" not in state:
                raise UsageError(f"the state of {where} lacks {key}_state")
            _check_shapes(f"{key} of {where}", state[f"{key}_state"], own[key])

    def __getstate__(self) -> dict[str, Any]:
        self._show_state()
        # v and g are views of long tensors, which would be copied once for each.
        state = {w: {**own, **_cloned(own)} for w, own in self.state.items()}
        inner = copy.copy(self._inner)
        inner.state, inner.param_groups = defaultdict(dict), []
        own = {"v_init_std": self.v_init_std, "_inner": inner, "_plain_steps": self._plain_steps}
        return {**super().__getstate__(), **own, "state": defaultdict(dict, state)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._adopt_all()

    def _adopt_all(self) -> None:
        self._bundles = []
        self._inner.state.clear()
        for group in self.param_groups:
            self._adopt(group)

    @torch.no_grad()
    def _adopt(self, group: dict[str, Any]) -> None:
        """Makes the pairs of a group, from their state if they have one, and bundles them."""
        check_positive(g_lr_scale=group["g_lr_scale"])
        alike: dict[Any, list[Pair]] = {}
        for w in group["params"]:
            state = self.state[w]
            if not group["weight_norm"] or not Pair.suits(w, group["transposed"]):
                self._inner.state[w] = state
                continue
            if "v" in state:
                v, g = (state[key].detach().to(w.device) for key in ("v", "g"))
                pair = Pair(w, group["transposed"], v, g)
            else:
                pair = Pair.split(w, group["transposed"], self.v_init_std)
            kind = w if w.numel() > SMALL else (pair.v.device, pair.v.dtype)
            alike.setdefault(kind, []).append(pair)
        bundles = [Bundle(pairs) for pairs in alike.values()]
        on_device = bool(group.get("fused") or group.get("capturable"))
        for bundle in bundles:
            states = []
            for pair in bundle.pairs:
                state, device = self.state[pair.w], pair.v.device
                of_v, of_g = (state.get(f"{key}_state", {}) for key in ("v", "g"))
                states.append((_placed(of_v, device, on_device), _placed(of_g, device, on_device)))
                self.state[pair.w] = {"v": pair.v, "g": pair.g}
            bundle.load(self._inner.state, states)
        self._bundles.append(bundles)

    def _show_state(self) -> None:
        """Puts the base optimizer's state of v and g where it belongs, under the weight."""
        for bundle in (bundle for bundles in self._bundles for bundle in bundles):
            for pair, v_state, g_state in bundle.states(self._inner.state):
                self.state[pair.w] |= {"v_state": v_state, "g_state": g_state}


def _inner_groups(
    group: dict[str, Any], bundles: list[Bundle], plain_steps: dict[str, Any]
) -> list[dict[str, Any]]:
    """The groups of the base optimizer: one if it may treat v, g and the rest alike.

    Args:
        group: of the optimizer.
        bundles: its weights.
        plain_steps: options with which the base optimizer chooses its kernel by itself.
    """
    options = {name: value for name, value in group.items() if name not in _OUTER_KEYS}
    owned = {pair.w for bundle in bundles for pair in bundle.pairs}
    rest = [w for w in group["params"] if w not in owned]
    parameters = [bundle.parameters() for bundle in bundles]
    vs = [v for of_v, _ in parameters for v in of_v]
    gs = [g for _, of_g in parameters for g in of_g]
    scale = group["g_lr_scale"]
    alike = not plain_steps or all(map(_fits_every_kernel, rest))
    if alike and not options.get("weight_decay") and scale == 1:
        return [{**options, "params": rest + vs + gs}]
    undecayed = {**options, "weight_decay": 0.0}
    return [
        {**options, **({} if alike else plain_steps), "params": rest},
        {**undecayed, "params": vs},
        {**undecayed, "params": gs, "lr": group["lr"] * scale},
    ]


def _fits_every_kernel(w: Tensor) -> bool:
    """Whether fused steps take ``w``, which is neither complex nor has a sparse gradient."""
    return not w.is_complex() and (w.grad is None or w.grad.layout is torch.strided)


def _check_shapes(where: str, state: dict[str, Any], like: Tensor) -> None:
    """Raises UsageError for a tensor, but a counter, of another shape than ``like``."""
    for key, value in state.items():
        if isinstance(value, Tensor) and value.dim() and value.shape != like.shape:
            raise UsageError(
                f"{key} of {where} must have shape {tuple(like.shape)}, got {tuple(value.shape)}: "
                "the state was saved for another network"
            )


def _cloned(state: dict[str, Any]) -> dict[str, Any]:
    return {key: state[key].clone() for key in ("v", "g") if key in state}


def _placed(state: dict[str, Any], device: torch.device, counters_too: bool) -> dict[str, Any]:
    """A state on ``device``; its counters only where the base optimizer wants them there."""
    return {
        key: value.to(device)
        if isinstance(value, Tensor) and (value.dim() or counters_too)
        else value
        for key, value in state.items()
    }


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
        UsageError: ``base`` is one of those, weight-normalized already, or no optimizer.
    """
    if not issubclass(base, Optimizer) or issubclass(base, WeightNormalized):
        raise UsageError(f"base must be a plain torch optimizer, got {base.__name__}")
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
