"""What a VAE sees and dreams, as image tensors for TensorBoard and PNG files."""

import math

import torch
from torch import Tensor

from wnrl.data import Images
from wnrl.vae.inputs import fixed_inputs
from wnrl.vae.measure import evaluating
from wnrl.vae.model import VAE

TILE_PIXELS = 48  # smaller images are magnified to at least this size


def grid(images: Tensor, columns: int) -> Tensor:
    """Images side by side, magnified by a whole factor, with a grey line between them.

    Args:
        images: values in [0, 1], ``(N, C, height, width)``.
        columns: images in a row; N is a multiple of it.

    Returns:
        One image, ``(C, rows · tile + 1, columns · tile + 1)``, a tile being a magnified image
        and a line of one pixel.
    """
    n, channels, height, width = images.shape
    rows, rest = divmod(n, columns)
    if rest:
        raise ValueError(f"columns must divide the {n} images, got {columns}")
    factor = math.ceil(TILE_PIXELS / max(height, width))
    large = images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    tiles = torch.nn.functional.pad(large, (1, 0, 1, 0), value=0.5)
    tiles = tiles.reshape(rows, columns, channels, *tiles.shape[2:]).permute(2, 0, 3, 1, 4)
    picture = tiles.reshape(channels, rows * tiles.shape[2], columns * tiles.shape[4])
    return torch.nn.functional.pad(picture, (0, 1, 0, 1), value=0.5)


@torch.no_grad()
def reconstructions(model: VAE, images: Images, columns: int = 16, rows: int = 2) -> Tensor:
    """Validation images, each row of them above its row of reconstructions."""
    pixels, scale = fixed_inputs(
        model.likelihood, images.valid[: columns * rows], images.levels, seed=0
    )
    x = pixels / scale
    with evaluating(model):
        decoded = model.reconstruct(x.to(next(model.parameters()).device)).cpu()
    pairs = torch.stack([x, decoded]).reshape(2, rows, columns, *images.shape)
    return grid(pairs.transpose(0, 1).reshape(-1, *images.shape), columns)


@torch.no_grad()
def samples(model: VAE, images: Images, columns: int = 16, rows: int = 4) -> Tensor:
    """Expected images of samples from the prior, the same noise at every call."""
    generator = torch.Generator(next(model.parameters()).device).manual_seed(0)
    with evaluating(model):
        means = model.sample(columns * rows, generator).cpu()
    return grid(means.reshape(-1, *images.shape), columns)
