"""Compute weights once: ``frozen`` for rollouts, ``shared_weights`` for one loss.

A layer outside a scope computes its weights at every forward. Inside one its weight cache keeps
them, with a stamp of the parameters that they were computed from, and gives them out as long as the
stamp holds. The stamp sees every in-place operation (version counters), a new tensor behind a
parameter (identity and address) and every optimizer step: fused optimizers move no version counter,
so torch's own count of steps is asked for while a scope is open. It does not see writes through
``.data`` and those of other processes: they are right again when the scope ends or after
``invalidate``, and the check mode finds them. Outside of scopes nothing is kept or watched.
"""

import os
import threading
from collections import Counter
from contextlib import ContextDecorator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from wnrl.errors import UsageError
from wnrl.nn.functional import is_traced, same_values

Weights = tuple[Tensor | None, ...]
EVERY = 0
"""In the place of a thread's number, which is never zero."""


class StaleWeightError(RuntimeError):
    """A kept weight differs from a fresh one: a write that leaves no trace, inside a scope."""


_steps = 0  # grows with each optimizer step of this process while a scope is open
_checking = os.environ.get("WNRL_CHECK_FROZEN", "") not in ("", "0")
_lock = threading.Lock()


def _count_step(*_: Any) -> None:
    global _steps
    _steps += 1


def check(enabled: bool = True) -> bool:
    """Switch the check mode: every use of a kept weight recomputes it and compares.

    A difference raises ``StaleWeightError``. The environment variable ``WNRL_CHECK_FROZEN=1``
    switches the mode on from the start.

    Returns:
        Whether it was on before.
    """
    global _checking
    before, _checking = _checking, enabled
    return before


class Kept:
    """Weights, and a stamp of the parameters that they were computed from."""

    __slots__ = ("aliases", "spent", "stamp", "steps", "weights")

    def __init__(self, layer: Any) -> None:
        # The stamp comes first: a write while the weights are computed must make it outdated.
        self.steps = _steps
        held = [(n, p) for n, p in (layer._parameters | layer._buffers).items() if p is not None]
        # As long as these live, no new tensor can get the address of an old one.
        self.aliases = [p.detach() for _, p in held]
        self.stamp = [(n, p, (p._version, p.data_ptr(), p.requires_grad)) for n, p in held]
        # Filled by a backward through the weights, which frees their graph. Their hook may hold no
        # more than this: Python's collector finds no way from a hook back to its tensor.
        self.spent: list[bool] = []
        self.weights: Weights = layer._compute()

    def holds(self, layer: Any) -> bool:
        """Return whether the parameters are still those that the weights were computed from."""
        if self.steps != _steps or self.spent:
            return False
        parameters = layer._parameters
        if layer._buffers:  # a mask
            parameters = parameters | layer._buffers
        for name, old, state in self.stamp:
            now = parameters.get(name)
            if now is not old or (now._version, now.data_ptr(), now.requires_grad) != state:
                return False
        return True


class WeightCache:
    """The weights that are kept for one layer while at least one scope is open on it."""

    __slots__ = ("kept", "scopes")

    def __init__(self) -> None:
        # Weights without graph, for all threads, as EVERY; those with their graph by thread.
        self.kept: dict[int, Kept] = {}
        # The number of open scopes: likewise, those that share weights by thread.
        self.scopes: Counter[int] = Counter()

    def weights(self, layer: Any) -> Weights:
        """Return the layer's weights: kept ones where they are right, else computed ones."""
        if is_traced():  # kept weights would be constants there
            return layer._compute()
        grad = torch.is_grad_enabled()
        key = threading.get_ident() if grad else EVERY
        if grad and not self.scopes[key]:
            return layer._compute()
        kept = self.kept.get(key)
        if kept is None or not kept.holds(layer):
            if not _can_be_kept(layer):
                return layer._compute()
            kept = self.kept[key] = Kept(layer)
            for weight in kept.weights if grad else ():
                if weight is not None and weight.grad_fn is not None:
                    weight.register_hook(lambda _, spent=kept.spent: spent.append(True))
        elif _checking:
            _compare(layer, kept)
        return kept.weights


def _can_be_kept(layer: Any) -> bool:
    """Return False where another process can write, and where the stamp would miss something."""
    if not layer._owns_parameters():
        return False
    held = (*layer._parameters.values(), *layer._buffers.values())
    parameters = [p for p in held if p is not None]
    return not any(p.is_inference() or (p.is_shared() and not p.is_cuda) for p in parameters)


def _compare(layer: Any, kept: Kept) -> None:
    """Raise StaleWeightError unless fresh weights equal the kept ones, NaN to NaN."""
    with torch.no_grad():
        for old, new in zip(kept.weights, layer._compute(), strict=True):
            if old is not None and not same_values(old, new):
                raise StaleWeightError(
                    f"a weight of {layer} was changed without a trace (through .data, or by "
                    "another process) inside a scope: call invalidate(module) after such a write"
                )


def _cached_layers(module: nn.Module) -> list[Any]:
    return [part for part in module.modules() if hasattr(type(part), "_cache")]


class frozen(ContextDecorator):  # noqa: N801 - reads as what it does to a module
    """Fold the weights of all weight-normalized layers in ``module``, for forwards without grad.

    Meant for rollouts and evaluation: within it, a forward where grad is off costs what the plain
    layer's costs. Forwards with grad compute their weights as ever, so no gradient is lost. Scopes
    nest, and may be open in several threads. Decorates functions too, as ``shared_weights`` does.

    What changes the weights is seen at the next forward, but for in-place writes through ``.data``
    (Stable-Baselines3's ``polyak_update`` is one) and those of other processes. Parameters in
    shared memory, ``torch.func`` transforms and compiled code are never given kept weights.
    """

    # No generator: one that is left open would be closed, noisily, while Python shuts down.

    _shares = False

    def __init__(self, module: nn.Module) -> None:
        self._layers = _cached_layers(module)
        self._hooks: list[RemovableHandle] = []  # one for each time that it is entered

    def __enter__(self) -> None:
        key = threading.get_ident() if self._shares else EVERY
        with _lock:
            self._hooks.append(register_optimizer_step_post_hook(_count_step))
            for layer in self._layers:
                layer._cache = layer._cache or WeightCache()
                layer._cache.scopes[key] += 1

    def __exit__(self, *_: object) -> None:
        key = threading.get_ident() if self._shares else EVERY
        with _lock:
            if not self._hooks:
                raise UsageError("a scope was left that had not been entered")
            self._hooks.pop().remove()
            for layer in self._layers:
                layer._cache.scopes[key] -= 1
                # A write that left no trace is right again from here on.
                layer._cache.kept.pop(EVERY, None)
                layer._cache.kept.pop(key, None)
                if not layer._cache.scopes.total():
                    layer._cache = None


class shared_weights(frozen):  # noqa: N801 - as above
    """Compute the weights of all layers in ``module`` once, with their graph, for one loss.

    Meant for unrolled loops: each forward with grad in this thread uses the same computed weight,
    as if the loop had been given it as an argument, and forwards without grad behave as in
    ``frozen``. After a backward through them the weights are computed anew. Losses that share them
    and are not summed need ``retain_graph=True``, as for any shared part of a graph;
    ``torch.utils.checkpoint`` recomputes outside of the scope and does not go with it.
    """

    _shares = True


def invalidate(module: nn.Module) -> None:
    """Forget the kept weights of all layers in ``module``, after a write that leaves no trace."""
    with _lock:
        for layer in _cached_layers(module):
            if layer._cache is not None:
                layer._cache.kept.clear()
