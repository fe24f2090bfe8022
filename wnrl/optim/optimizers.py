"""Optimizers that own v and g, and write w = g v/‖v‖ into a plain network."""

import copy
import functools
import sys
from collections import defaultdict
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from wnrl.errors import UsageError, check_positive
from wnrl.optim.base import GROUP_DEFAULTS, bare_step, fastest, inner_groups, treats_alike
from wnrl.optim.blocks import TOGETHER, Block, separated
from wnrl.optim.pairs import Pair
from wnrl.optim.stacks import SMALL
from wnrl.optim.state import alike, check_groups, check_pair, check_shapes, described, with_own_pair


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
    Parameters that move to another device or type, and other ones in a group, are seen too, and an
    emptied ``state`` starts anew.

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
        self._blocks: list[list[Block]] = []  # one list for each parameter group
        self._loose: list[list[Tensor]] = []  # what is in no block; the same
        self._known: list[list[Any]] = []  # the parameters, as they were; the same
        # The base optimizer refuses an empty list; what it steps on is set at each step.
        self._inner = self.base([torch.zeros(1)], *args, **kwargs)
        self._plain_steps: dict[str, Any] = {}
        if not {"fused", "foreach"} & kwargs.keys():
            fast = fastest(self.base)
            self._plain_steps = {key: self._inner.defaults[key] for key in fast}
            self._inner.defaults |= fast
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
        if self._is_outdated():
            self._renew()
        groups = []
        for index, group in enumerate(self.param_groups):
            self._separate(index)
            groups += inner_groups(
                group, self._blocks[index], self._loose[index], self._plain_steps
            )
        moving = [block for blocks in self._blocks for block in blocks if not block.rests()]
        self._inner.param_groups = groups
        try:
            for block in moving:
                block.receive()
            bare_step(self._inner)()
        finally:
            for block in moving:
                block.drop_gradients()
        for block in moving:
            block.write()
        return loss

    @torch.no_grad()
    def resync(self) -> None:
        """Derives v and g from w wherever w is no longer g v/‖v‖, but for rounding.

        ``step`` does it by itself for every write that torch counts.
        """
        for block in (block for blocks in self._blocks for block in blocks):
            block.follow()

    def state_dict(self) -> dict[str, Any]:
        """torch's, where the state of a weight is v, g and the base optimizer's state of each.

        It is a copy, but for tensors that torch's optimizers step on here as well. Attribute
        ``state`` has v and g alone.
        """
        live, self.state = self.state, self._shown()
        try:
            return super().state_dict()
        finally:
            self.state = live

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resumes bit for bit, where the network is loaded as well (in either order).

        Raises:
            UsageError: the state of a weight lacks v or g (another optimizer's), or a tensor is of
                another shape (another network's). The optimizer is unchanged.
        """
        state_dict = copy.deepcopy(state_dict)  # torch would go on sharing its tensors
        for group in state_dict["param_groups"]:
            group |= {**GROUP_DEFAULTS, **group}
        indices = (i for group in state_dict["param_groups"] for i in group["params"])
        params = (w for group in self.param_groups for w in group["params"])
        exact = {}
        for index, w in zip(indices, params, strict=False):
            state = state_dict["state"].get(index, {})
            own = self.state.get(w, {})
            if "v" in own:
                check_pair(f"parameter {index}", state, own, type(self).__name__)
                exact[w] = state
            else:
                check_shapes(f"parameter {index}", state, w)
        super().load_state_dict(state_dict)
        self.state = self._shown()
        # torch casts state to the type of its parameter, which may be bf16.
        for w, state in exact.items():
            self.state[w] = state
        self._adopt_all()

    def __getstate__(self) -> dict[str, Any]:
        inner = copy.copy(self._inner)
        inner.state, inner.param_groups = defaultdict(dict), []
        own = {"v_init_std": self.v_init_std, "_inner": inner, "_plain_steps": self._plain_steps}
        return {**super().__getstate__(), **own, "state": self._shown()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._adopt_all()

    def _adopt_all(self) -> None:
        self._blocks, self._loose, self._known = [], [], []
        self._inner.state.clear()
        for group in self.param_groups:
            self._adopt(group)

    @torch.no_grad()
    def _adopt(self, group: dict[str, Any]) -> None:
        """Makes the pairs of a group, from their state if they have one, and joins them."""
        check_positive(g_lr_scale=group["g_lr_scale"])
        check_groups(group["transposed"])
        pairs: list[Pair] = []
        plain: list[Tensor] = []
        loose: list[Tensor] = []
        for w in group["params"]:
            if w in self.state and "v" not in self.state[w]:
                self.state[w] = alike(self.state[w], w)
            if group["weight_norm"] and Pair.suits(w, group["transposed"]):
                pairs.append(self._pair(w, group["transposed"]))
            elif w.dim() == 1 and w.numel() <= SMALL and w.is_floating_point():
                plain.append(w)
            else:
                loose.append(w)
                self._inner.state[w] = self.state[w]
        self._blocks.append(self._joined(group, pairs, plain))
        self._loose.append(loose)
        self._known.append(described(group["params"]))

    def _pair(self, w: Tensor, transposed: int) -> Pair:
        state = self.state.get(w, {})
        if "v" not in state:
            return Pair.split(w, transposed, self.v_init_std)
        dtype = torch.promote_types(w.dtype, torch.float32)
        v, g = (state[key].detach().to(w.device, dtype) for key in ("v", "g"))
        for key in {"v_state", "g_state"} & state.keys():
            state[key] = alike(state[key], v)
        return Pair(w, transposed, v, g)

    def _joined(self, group: dict[str, Any], pairs: list[Pair], plain: list[Tensor]) -> list[Block]:
        """The fewest blocks that hold these, with their state."""
        blocks = []
        counters = bool(group.get("fused") or group.get("capturable"))
        for of_one_kind in separated(pairs, plain, self.state):
            blocks.append(Block(*of_one_kind, joint=treats_alike(group)))
            blocks[-1].load(self.state, self._inner.state, counters)
        return blocks

    def _separate(self, index: int) -> None:
        """Takes blocks of a group apart, for good, that one step does not suit any more.

        A parameter without a gradient rests while others move, a sparse gradient is for the base
        optimizer to take or to refuse, and the options may be others now.
        """
        group = self.param_groups[index]
        for block in list(self._blocks[index]):
            if block.layouts() in TOGETHER and (not block.joint or treats_alike(group)):
                continue
            self._blocks[index].remove(block)
            block.unload(self.state, self._inner.state)
            for layout, pairs, plain in block.by_layout():
                if {layout} in TOGETHER:
                    self._blocks[index] += self._joined(group, pairs, plain)
                else:
                    self._blocks[index] += self._joined(group, pairs, [])
                    self._loose[index] += plain
                    self._inner.state |= {w: self.state[w] for w in plain}

    def _shown(self) -> defaultdict[Tensor, dict[str, Any]]:
        """The state of all parameters, with the base optimizer's where it belongs, copied."""
        state = defaultdict(dict, {w: with_own_pair(own) for w, own in self.state.items()})
        for block in (block for blocks in self._blocks for block in blocks):
            block.show(state, self._inner.state)
        return state

    def _is_outdated(self) -> bool:
        """Whether someone else has changed what is in the groups, or emptied ``state``."""
        known = [described(group["params"]) for group in self.param_groups]
        return known != self._known or self._is_emptied()

    def _is_emptied(self) -> bool:
        has_any = any(self._loose) or any(
            block.pairs for blocks in self._blocks for block in blocks
        )
        return has_any and not self.state

    def _renew(self) -> None:
        """Adopts the groups as they are now; parameters that were there keep their state."""
        state = {} if self._is_emptied() else self._shown()
        params = (w for group in self.param_groups for w in group["params"])
        self.state = defaultdict(dict, {w: state[w] for w in params if w in state})
        self._adopt_all()


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
