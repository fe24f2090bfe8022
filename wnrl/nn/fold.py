"""From a normalised network back to plain torch layers."""

import copy
from typing import Any

from torch import nn


def fold(module: nn.Module) -> nn.Module:
    """A plain torch copy of ``module`` with the same function.

    Weight-normalized and spectral layers become plain layers with the effective weight. What
    depends on the activations (batch, layer, RMS norm, layer-normalised recurrence) stays a module
    of its own. A layer used twice is one layer in the copy too. The mode is that of ``module``.
    """
    copied = copy.deepcopy(module)
    if hasattr(copied, "to_plain"):
        return _plain(copied)
    folded: dict[int, nn.Module] = {}
    for parent in list(copied.modules()):
        for key, child in list(parent._modules.items()):
            if child is not None and hasattr(child, "to_plain"):
                if id(child) not in folded:
                    folded[id(child)] = _plain(child)
                setattr(parent, key, folded[id(child)])
    return copied


def _plain(layer: Any) -> nn.Module:
    return layer.to_plain().train(layer.training)
