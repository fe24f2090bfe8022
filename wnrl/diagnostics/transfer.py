"""From tensors to numbers, once a log step."""

from collections.abc import Mapping

import torch
from torch import Tensor


def to_floats(scalars: Mapping[str, Tensor]) -> dict[str, float]:
    """Return numbers of all scalars, in one copy: a GPU is waited for once.

    Args:
        scalars: tensors of one element on one device; types may differ.
    """
    if not scalars:
        return {}
    stacked = torch.stack([value.detach().reshape(()) for value in scalars.values()])
    return dict(zip(scalars, stacked.tolist(), strict=True))
