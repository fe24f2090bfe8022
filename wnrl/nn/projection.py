"""Rows of a weight put back on the unit sphere (CrossQ+WN, NaP, SimbaV2; no g, no gradient)."""

import math

import torch
from torch import Tensor, nn

from wnrl.nn.functional import transposed_groups, units_first
from wnrl.nn.layers import MaskedLinear


def mark_projected(layer: nn.Module) -> bool:
    """Marks a layer whose rows ``project_`` puts on the sphere.

    Returns:
        Whether the mark is new.
    """
    new = not is_projected(layer)
    setattr(layer, "projected", True)  # noqa: B010  # mypy takes a Module's attribute for a Tensor
    return new


def is_projected(layer: nn.Module) -> bool:
    """Return whether ``project_`` puts the rows of ``layer`` on the sphere."""
    return getattr(layer, "projected", False) is True


def projected_weights(module: nn.Module) -> list[tuple[Tensor, int]]:
    """The weights of marked layers, each once, with their number of groups.

    The rows of a weight run along axis 0; for a transposed convolution, whose output channels are
    in axis 1, the number of groups is given, and for all others it is 0.
    """
    found: dict[Tensor, int] = {}
    for layer in module.modules():
        if is_projected(layer):
            weights = [p for p in layer.parameters(recurse=False) if p.dim() > 1]
            found |= dict.fromkeys(weights, transposed_groups(layer))
    return list(found.items())


@torch.no_grad()
def project_(module: nn.Module) -> None:
    """Divides each row of the weights of marked layers by its length, in place.

    The layers are those that ``convert(module, "projected")`` marked: hidden ones, so that the
    scale of the outputs stays free. A row is what feeds one output unit or channel; a recurrent
    layer has one for each gate unit, in its input and in its recurrent weights. A row of zeros
    stays as it is. What a mask hides is no part of it, and becomes zero.
    """
    for layer in module.modules():
        if is_projected(layer) and isinstance(layer, MaskedLinear):
            layer.mask_weight()
    for weight, groups in projected_weights(module):
        rows = units_first(weight, groups)
        to_length_one_(rows, list(range(2 if groups else 1, rows.dim())))


def to_length_one_(rows: Tensor, axes: list[int]) -> None:
    """Divide rows, which run along ``axes``, by their lengths; zeros stay as they are."""
    # By the largest entry first: squares of what is tiny or huge would be zero or infinite.
    for order in (math.inf, 2):
        length = torch.linalg.vector_norm(rows, order, dim=axes, keepdim=True)
        rows.div_(length.where(length > 0, 1.0))
