"""Compute computed weights once: ``frozen`` for rollouts, ``shared_weights`` for one loss.

A layer outside a scope computes its weight at every forward. Inside one it keeps it, with a stamp
of the parameters that it was computed from, and uses it as long as the stamp holds. The stamp sees
every in-place operation (version counters), a new tensor behind a parameter (identity and address)
and every optimizer step (a hook, since fused optimizers move no version counter). It does not see
writes through ``.data`` and those of other processes: they are right again when the scope ends or
after ``invalidate``, and the check mode finds them.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import ContextDecorator, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from wnrl.errors import UsageError
from wnrl.nn.functional import in_transform

Weights = tuple[Tensor | None, ...]


class StaleWeightError(RuntimeError):
    """A kept weight differs from a fresh one: a write that leaves no trace, inside a scope."""


class Keeper(Protocol):
    """What a layer offers to a scope."""

    _scope: "Scope | None"
    _parameters: dict[str, Any]
    _buffers: dict[str, Any]

    def _compute(self) -> Weights:
        """The computed weights and biases, a pure function of parameters and buffers."""

    def _owns_parameters(self) -> bool:
        """Whether ``_parameters`` and ``_buffers`` hold all that ``_compute`` reads."""


_steps = 0  # optimizer steps of this process
_checking = os.environ.get("WNRL_CHECK_FROZEN", "") not in ("", "0")
_lock = threading.Lock()


def _count_step(*_: Any) -> None:
    global _steps
    _steps += 1


register_optimizer_step_post_hook(_count_step)


def steps() -> int:
    """How many steps all optimizers of this process have taken."""
    return _steps


def check(enabled: bool = True) -> bool:
    """Switches the check mode: every use of a kept weight recomputes it and compares.

    A difference raises ``StaleWeightError``. The environment variable ``WNRL_CHECK_FROZEN=1``
    switches the mode on from the start.

    Returns:
        Whether it was on before.
    """
    global _checking
    before, _checking = _checking, enabled
    return before


class Spent:
    """Tensor hook: whether a backward has gone through weights, and freed their graph.

    It holds nothing: from a hook Python's collector finds no way back to the tensor that has it,
    and what such a hook held would never be freed.
    """

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = False

    def __call__(self, _: Tensor) -> None:
        """Called with the gradient."""
        self.value = True


class Kept:
    """Weights, and a stamp of the parameters that they were computed from."""

    __slots__ = ("aliases", "spent", "stamp", "steps", "trained", "weights")

    def __init__(self, layer: Keeper) -> None:
        # The stamp comes first: a write while the weights are computed must make it outdated.
        self.steps = _steps
        held = {**layer._parameters, **layer._buffers}
        parameters = {name: p for name, p in held.items() if p is not None}
        # As long as these live, no new tensor can get the address of an old one.
        self.aliases = [p.detach() for p in parameters.values()]
        self.stamp = [(name, p, p._version, p.data_ptr()) for name, p in parameters.items()]
        self.trained = [p.requires_grad for p in parameters.values()]
        self.spent = Spent()
        self.weights = layer._compute()

    def holds(self, layer: Keeper) -> bool:
        """Whether the parameters are still those that the weights were computed from."""
        if self.steps != _steps:
            return False
        parameters = layer._parameters
        if layer._buffers:  # a mask
            parameters = {**parameters, **layer._buffers}
        for name, old, version, address in self.stamp:
            now = parameters.get(name)
            if now is not old or now._version != version or now.data_ptr() != address:
                return False
        return True


class Scope:
    """What is kept for one layer while at least one scope is open on it."""

    __slots__ = ("depth", "kept", "sharing")

    def __init__(self) -> None:
        self.depth = 0  # open scopes of either kind, in all threads
        self.kept: Kept | None = None  # weights without graph, for all threads
        # Per thread that shares weights with their graph: its depth, and what it keeps.
        self.sharing: dict[int, tuple[int, Kept | None]] = {}

    def weights(self, layer: Keeper) -> Weights:
        """The layer's weights: kept ones where they are right, else computed."""
        if torch.compiler.is_compiling() or in_transform():
            return layer._compute()
        if torch.is_grad_enabled():
            return self._with_graph(layer)
        kept = self.kept
        if kept is None or not kept.holds(layer):
            return self._fold(layer)
        if _checking:
            _compare(layer, kept)
        return kept.weights

    def _fold(self, layer: Keeper) -> Weights:
        if not _can_be_kept(layer):
            return layer._compute()
        self.kept = kept = Kept(layer)
        return kept.weights

    def _with_graph(self, layer: Keeper) -> Weights:
        thread = threading.get_ident()
        if thread not in self.sharing:
            return layer._compute()
        depth, kept = self.sharing[thread]
        if (
            kept is not None
            and not kept.spent.value
            and kept.holds(layer)
            and kept.trained == [p.requires_grad for _, p, _, _ in kept.stamp]
        ):
            if _checking:
                _compare(layer, kept)
            return kept.weights
        if not _can_be_kept(layer):
            return layer._compute()
        kept = Kept(layer)
        for weight in kept.weights:
            if weight is not None and weight.grad_fn is not None:
                weight.register_hook(kept.spent)
        self.sharing[thread] = (depth, kept)
        return kept.weights


def _can_be_kept(layer: Keeper) -> bool:
    """Not where another process can write, nor where the stamp would miss something."""
    if not layer._owns_parameters():
        return False
    held = (*layer._parameters.values(), *layer._buffers.values())
    parameters = [p for p in held if p is not None]
    return not any(p.is_inference() or (p.is_shared() and not p.is_cuda) for p in parameters)


def _compare(layer: Keeper, kept: Kept) -> None:
    with torch.no_grad():
        fresh = layer._compute()
        for old, new in zip(kept.weights, fresh, strict=True):
            if old is not None and new is not None and not _same(old, new):
                raise StaleWeightError(
                    f"a weight of {layer} was changed without a trace (through .data, or by "
                    "another process) inside a scope: call invalidate(module) after such a write"
                )


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two weights are equal, NaN to NaN; those on the meta device have no values."""
    return a.is_meta or bool(((a == b) | (a.isnan() & b.isnan())).all())


def _keepers(module: nn.Module) -> list[Keeper]:
    return [m for m in module.modules() if hasattr(type(m), "_scope")]  # type: ignore[misc]


class frozen(ContextDecorator):  # noqa: N801 - reads as what it does to a module
    """Folds the weights of all layers in ``module``, for forwards without grad.

    Meant for rollouts and evaluation: within it, a forward where grad is off costs what the plain
    layer's costs. Forwards with grad compute their weights as ever, so no gradient is lost. Scopes
    nest, and may be open in several threads. Decorates functions too, as ``shared_weights`` does.

    What changes the weights is seen at the next forward, but for in-place writes through ``.data``
    (Stable-Baselines3's ``polyak_update`` is one) and those of other processes. Parameters in
    shared memory, ``torch.func`` transforms and compiled code are never given kept weights.
    """

    # No generator: one that is left open would be closed, noisily, while Python shuts down.

    def __init__(self, module: nn.Module) -> None:
        self._layers = _keepers(module)

    def __enter__(self) -> None:
        _enter(self._layers)

    def __exit__(self, *_: object) -> None:
        _leave(self._layers)


@contextmanager
def shared_weights(module: nn.Module) -> Iterator[None]:
    """Computes the weights of all layers in ``module`` once, with their graph, for one loss.

    Meant for unrolled loops: each forward with grad in this thread uses the same computed weight,
    as if the loop had been given it as an argument, and forwards without grad behave as in
    ``frozen``. After a backward through them the weights are computed anew. Losses that share them
    and are not summed need ``retain_graph=True``, as for any shared part of a graph;
    ``torch.utils.checkpoint`` recomputes outside of the scope and does not go with it.
    """
    layers = _keepers(module)
    thread = threading.get_ident()
    _enter(layers, thread)
    try:
        yield
    finally:
        _leave(layers, thread)


def invalidate(module: nn.Module) -> None:
    """Forgets the kept weights of all layers in ``module``, after a write that leaves no trace."""
    with _lock:
        for layer in _keepers(module):
            if layer._scope is not None:
                layer._scope.kept = None
                sharing = layer._scope.sharing
                sharing.update({thread: (depth, None) for thread, (depth, _) in sharing.items()})


def _enter(layers: list[Keeper], thread: int | None = None) -> None:
    with _lock:
        for layer in layers:
            scope = layer._scope = layer._scope or Scope()
            scope.depth += 1
            if thread is not None:
                depth, kept = scope.sharing.get(thread, (0, None))
                scope.sharing[thread] = (depth + 1, kept)


def _leave(layers: list[Keeper], thread: int | None = None) -> None:
    with _lock:
        if any(layer._scope is None for layer in layers):
            raise UsageError("a scope was left that had not been entered")
        for layer in layers:
            scope = layer._scope
            assert scope is not None
            if thread is not None:
                depth, _ = scope.sharing.pop(thread)
                if depth > 1:
                    scope.sharing[thread] = (depth - 1, None)
            scope.depth -= 1
            scope.kept = None  # a write that left no trace is right again from here on
            if scope.depth == 0:
                layer._scope = None
