"""From grey levels to the binary images that a Bernoulli likelihood is about.

Grey levels under a Bernoulli are not a likelihood. Training draws every image afresh at every use
(Burda et al., 2016). Evaluation uses one draw, made on the CPU from a stated seed, so that every
model, norm, seed and device is measured on the same binary images and differences are paired.
"""

import torch
from torch import Tensor


def binarise(pixels: Tensor, levels: int, generator: torch.Generator | None = None) -> Tensor:
    """Draws every pixel from a Bernoulli with p = grey level / (levels − 1).

    Args:
        pixels: grey levels 0 … levels − 1, uint8, any shape, on any device.
        levels: number of grey levels.
        generator: on the same device.

    Returns:
        Zeros and ones, float32, shape of ``pixels``. Black is always 0 and white always 1.
    """
    u = torch.rand(pixels.shape, generator=generator, device=pixels.device)
    return (u * (levels - 1) < pixels).float()


def fixed_draw(pixels: Tensor, levels: int, seed: int) -> Tensor:
    """The one binary version of ``pixels`` that belongs to ``seed``, uint8, on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    return binarise(pixels.cpu(), levels, generator).to(torch.uint8)
