"""From a normalised network back to plain torch layers."""

import copy
from typing import Any

from torch import nn

from wnrl.errors import UsageError

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
SETTINGS = ("scale", "eps", "output_dim", "weight_groups")


def fold(module: nn.Module) -> nn.Module:
    """A plain torch copy of ``module`` with the same function.

    Weight-normalized and spectral layers become plain layers with the effective weight. What
    depends on the activations (batch, layer, RMS norm, layer-normalised recurrence) stays a module
    of its own. A layer used twice is one layer in the copy too, and weight-normalized layers with
    one weight have one weight. The mode is that of ``module``.

    Raises:
        UsageError: a layer that becomes plain has hooks, which would be lost.
    """
    for name, layer in module.named_modules():
        if hasattr(layer, "to_plain") and any(getattr(layer, kind) for kind in HOOKS):
            label = name or type(layer).__name__
            raise UsageError(f"{label} has hooks that folding would lose; remove them first")
    copied = copy.deepcopy(module)
    if hasattr(copied, "to_plain"):
        return _plain(copied)
    folded: dict[int, nn.Module] = {}
    weights: dict[tuple[Any, ...], nn.Parameter] = {}
    sources: list[nn.Module] = []  # kept alive: the ids of their parameters are keys
    for parent in list(copied.modules()):
        for key, child in list(parent._modules.items()):
            if child is not None and hasattr(child, "to_plain"):
                if id(child) not in folded:
                    sources.append(child)
                    folded[id(child)] = _plain(child)
                    _tie(folded[id(child)], child, weights)
                setattr(parent, key, folded[id(child)])
    return copied


def _plain(layer: Any) -> nn.Module:
    return layer.to_plain().train(layer.training)


def _tie(plain: nn.Module, source: Any, weights: dict[tuple[Any, ...], nn.Parameter]) -> None:
    """Gives ``plain`` the weight that was computed before from the same v and g."""
    parameters = source._parameters
    for name in getattr(source, "pairs", ()):
        v, g = parameters.get(f"{name}_v"), parameters.get(f"{name}_g")
        if v is not None and g is not None:
            key = (id(v), id(g), *(getattr(source, setting) for setting in SETTINGS))
            setattr(plain, name, weights.setdefault(key, getattr(plain, name)))
