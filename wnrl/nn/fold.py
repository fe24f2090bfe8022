"""From a normalised network back to plain torch layers."""

import copy
from typing import Any

import torch
from torch import nn

from wnrl.errors import UsageError
from wnrl.nn.slots import check_module
from wnrl.nn.spectral import SPECTRAL
from wnrl.nn.table import WEIGHT_NORMED

FOLDED: tuple[Any, ...] = (*WEIGHT_NORMED.values(), *SPECTRAL.values())
"""The layers that have a plain counterpart with the same function."""
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def fold(module: nn.Module) -> nn.Module:
    """A plain torch copy of ``module`` with the same function.

    Weight-normalized and spectral layers become plain layers with the effective weight. What
    depends on the activations (batch, layer, RMS norm, layer-normalised recurrence) stays a module
    of its own. A layer used twice is one layer in the copy too, and parameters that were tied stay
    tied: biases with any other, weights where they have the same effective value. (Spectral layers
    that share a weight but were used unequally often in training may differ in it.) The mode is
    that of ``module``. ``torch.onnx.export`` takes the copy; a layer-normalised recurrence, a loop
    in Python, is unrolled there at the length of the example.

    Raises:
        UsageError: ``module`` is none; or a layer that becomes plain has hooks, or a subclass's
            ``forward``, which would be lost, or has no values yet (device ``meta``).
    """
    check_module(module)
    for name, layer in module.named_modules():
        if hasattr(layer, "to_plain"):
            _check_foldable(name or type(layer).__name__, layer)
    root = nn.ModuleList([copy.deepcopy(module)])  # so that a layer by itself has a parent too
    folded: dict[int, nn.Module] = {}
    made: dict[tuple[int, ...], nn.Parameter] = {}
    sources: list[nn.Module] = []  # kept alive: the ids of their parameters are keys
    for parent in list(root.modules()):
        for key, child in list(parent._modules.items()):
            if child is not None and hasattr(child, "to_plain"):
                if id(child) not in folded:
                    sources.append(child)
                    folded[id(child)] = child.to_plain()  # type: ignore[operator]
                    _tie(folded[id(child)], child, made)
                setattr(parent, key, folded[id(child)])
    for part in root.modules():
        if isinstance(part, nn.RNNBase):
            part.flatten_parameters()  # in one buffer again, for cuDNN: copies are not
    return root[0]


def _check_foldable(label: str, layer: nn.Module) -> None:
    if any(getattr(layer, kind) for kind in HOOKS):
        raise UsageError(f"{label} has hooks that folding would lose; remove them first")
    kind: Any = type(layer)
    ours: Any = next((base for base in kind.__mro__ if base in FOLDED), kind)
    if kind.forward is not ours.forward and kind.to_plain is ours.to_plain:
        raise UsageError(
            f"{label} is a {kind.__name__} with a forward of its own, which folding would lose; "
            f"give {kind.__name__} a to_plain of its own"
        )
    if any(parameter.is_meta for parameter in layer.parameters()):
        raise UsageError(f"{label} is on the device meta: it has no values to fold")


def _tie(plain: nn.Module, source: Any, made: dict[tuple[int, ...], nn.Parameter]) -> None:
    """Gives ``plain`` its parameters anew: unchanged ones, and those made of the same before."""
    for name, value in list(plain._parameters.items()):
        pair = name in getattr(source, "pairs", ())
        origins = [source._parameters.get(name + end) for end in (("_v", "_g") if pair else ("",))]
        if value is None or any(origin is None for origin in origins):
            continue  # pruned or parametrized: no parameter that could be tied
        unchanged = None if pair else origins[0]
        earlier = made.setdefault(tuple(id(origin) for origin in origins), value)
        for candidate in (unchanged, earlier):
            if candidate is not None and torch.equal(candidate, value):
                setattr(plain, name, candidate)
                break
