"""Lengths of weights, and how far they move."""

from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor, nn

from wnrl import tags
from wnrl.errors import UsageError
from wnrl.nn.base import Counterpart, WeightNormed
from wnrl.nn.functional import row_norm
from wnrl.nn.layers import MaskedLinear
from wnrl.nn.normalizers import Normalized


@torch.no_grad()
def weight_lengths(module: nn.Module) -> dict[str, Tensor]:
    """Return mean g and mean ‖v‖ of each weight-normalized weight.

    Under plain gradient descent ‖v‖ can only grow, which lowers the effective learning rate; under
    Adam it need not.

    Returns:
        ``norm/g/<weight>`` and ``norm/v/<weight>`` to their means over the output units, scalars;
        empty where no weight is normalized.
    """
    lengths: dict[str, Tensor] = {}
    for path, layer in named_layers(module):
        if isinstance(layer, WeightNormed):
            for name in layer.computed:
                v, g = layer.pair(name)
                norms = row_norm(v, layer.unit_axis[0], layer.eps, layer.unit_axis[1])
                weight = joined(path, name)
                lengths[f"{tags.NORM_G}/{weight}"] = layer.length(g).mean()
                lengths[f"{tags.NORM_V}/{weight}"] = norms.mean()
    return lengths


def named_layers(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield ``module.named_modules()``, with the names that a plain network has.

    What stands behind a normalizer, in one slot with it, is called as if it stood alone, so that
    curves of one layer under several norms have one name.
    """
    names: dict[str, str] = {}
    slots: set[str] = set()
    for path, layer in module.named_modules():
        parent, _, key = path.rpartition(".")
        inside = parent in slots and key == "layer"
        names[path] = names[parent] if inside else joined(names.get(parent, ""), key)
        if isinstance(layer, Normalized):
            slots.add(path)
        else:
            yield names[path], layer


def joined(path: str, name: str) -> str:
    """Return the name of a part of what ``path`` names; the root has none."""
    return f"{path}.{name}" if path else name


@torch.no_grad()
def effective_weights(
    module: nn.Module, held: Collection[Tensor] | None = None
) -> dict[str, Tensor]:
    """Return a copy of every weight as the layer applies it: g v/‖v‖, W/σ(W), or the parameter.

    A masked weight is that under its mask. Biases, scales of normalizers and whatever else has no
    ``weight`` of two axes or more are left out; a layer that stands in several places is listed
    once. Nothing in ``module`` changes, the vectors of spectral norm included.

    Args:
        module: a network.
        held: parameters, in a set; layers that have none of them are left out.

    Returns:
        ``<layer>.<weight>``, as ``named_parameters`` of the plain network has it, to the weight.
    """
    weights: dict[str, Tensor] = {}
    for path, layer in named_layers(module):
        parameters = dict(layer.named_parameters(recurse=False))
        if held is not None and not any(p in held for p in parameters.values()):
            continue
        values = layer.plain_values() if isinstance(layer, Counterpart) else parameters
        for name, value in values.items():
            if name.startswith("weight") and value is not None and value.dim() > 1:
                masked = value * layer.mask if isinstance(layer, MaskedLinear) else value.clone()
                weights[joined(path, name)] = masked
    return weights


@torch.no_grad()
def relative_change(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ‖after − before‖ / ‖before‖ of every weight: the effective learning rate.

    With scale-invariant layers this, and not the learning rate, says how fast the function changes
    (van Laarhoven, 2017, arXiv:1706.05350).

    Args:
        before: from ``effective_weights``.
        after: the same weights later: one optimizer step later, say.

    Returns:
        A scalar for each weight; 0 for one that did not move, and infinity for one that left zero.

    Raises:
        UsageError: the two have other names or shapes.
    """
    shapes = [{name: tuple(w.shape) for name, w in side.items()} for side in (before, after)]
    if shapes[0] != shapes[1]:
        raise UsageError(f"before and after must hold the same weights, got {shapes}")
    changes = {}
    for name, old in before.items():
        moved = torch.linalg.vector_norm(after[name] - old)
        ratio = moved / torch.linalg.vector_norm(old)
        changes[name] = torch.where(moved == 0, torch.zeros_like(moved), ratio)
    return changes
