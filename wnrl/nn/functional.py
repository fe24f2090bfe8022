"""Weight normalization as pure functions of tensors (Salimans & Kingma 2016, arXiv:1602.07868)."""

import torch
from torch import Tensor

EPS = 1e-12


def row_norm(v: Tensor, dim: int = 0, eps: float = EPS) -> Tensor:
    """sqrt(Σ v² + eps) over all axes of ``v`` but ``dim``, in float32 or wider.

    Returns:
        The norms, shaped like ``v`` with 1 in every axis but ``dim``.
    """
    axes = [axis for axis in range(v.dim()) if axis != dim % v.dim()]
    wide = v.to(torch.promote_types(v.dtype, torch.float32))
    return (wide.square().sum(axes, keepdim=True) + eps).sqrt()


def weight_norm(v: Tensor, g: Tensor, dim: int = 0, eps: float = EPS) -> Tensor:
    """w = g · v / ‖v‖ for every slice of ``v`` along ``dim`` (eq. 2 of the paper).

    Args:
        v: directions, any shape of at least two axes.
        g: lengths, shaped like ``v`` with 1 in every axis but ``dim``.
        dim: the axis of the output units.
        eps: added to ‖v‖², so that a direction which shrinks to nothing gives w = 0.

    Returns:
        The effective weight, shape and dtype of ``v``.
    """
    return v * (g / row_norm(v, dim, eps)).to(v.dtype)
