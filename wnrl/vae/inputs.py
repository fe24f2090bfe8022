"""From grey levels to the images that a likelihood is about.

Grey levels under a Bernoulli are not a likelihood: such models see binary images. Training draws
each afresh at every use (Burda et al., 2016). Evaluation uses one draw, made on the CPU from a
stated seed, so that every model, norm, seed and device is measured on the same images and
differences are paired. Other likelihoods see the grey levels, divided by (levels − 1).
"""

import torch
from torch import Tensor

from wnrl.data import Images
from wnrl.errors import UsageError
from wnrl.vae.pixels import PixelLikelihood
from wnrl.vae.posteriors import Source


def binarise(pixels: Tensor, levels: int, generator: Source = None) -> Tensor:
    """Draw every pixel from a Bernoulli with p = grey level / (levels − 1).

    Args:
        pixels: grey levels 0 … levels − 1, uint8, any shape, on any device.
        levels: number of grey levels.
        generator: on the same device.

    Returns:
        Zeros and ones, float32, shape of ``pixels``. Black is always 0 and white always 1.
    """
    if levels == 2:
        return pixels.float()
    return binarised(
        pixels, levels, torch.rand(pixels.shape, generator=generator, device=pixels.device)
    )


def binarised(pixels: Tensor, levels: int, u: Tensor) -> Tensor:
    """Return what ``binarise`` does of uniform numbers, shape of ``pixels``, in their place."""
    return u.mul_(levels - 1).lt_(pixels)


def training_inputs(
    likelihood: PixelLikelihood, pixels: Tensor, levels: int, generator: Source = None
) -> Tensor:
    """Return images for one use in training: a fresh binary draw, or their grey levels.

    Args:
        likelihood: of the model.
        pixels: grey levels, uint8, ``(B, C, H, W)``, on any device.
        levels: their number.
        generator: on the same device.

    Returns:
        What a model takes, float32, ``(B, C, H, W)``, within [0, 1].
    """
    if likelihood.levels == 2:
        return binarise(pixels, levels, generator)
    return pixels.float() / (levels - 1)


def fixed_inputs(
    likelihood: PixelLikelihood, pixels: Tensor, levels: int, seed: int
) -> tuple[Tensor, int]:
    """Return images that every model with such a likelihood is measured on.

    Returns:
        uint8 images on the CPU, ``(N, C, H, W)``, and what to divide them by: a binary draw and
        1, or the grey levels and (levels − 1).
    """
    if likelihood.levels == 2:
        drawn = binarise(pixels.cpu(), levels, torch.Generator().manual_seed(seed))
        return drawn.to(torch.uint8), 1
    return pixels.cpu(), levels - 1


def check_levels(likelihood: PixelLikelihood, images: Images) -> None:
    """Raise UsageError if the likelihood is a probability of other grey levels."""
    if likelihood.levels not in (2, None, images.levels):
        raise UsageError(
            f"likelihood is of {likelihood.levels} grey levels, and dataset {images.name!r} has "
            f"{images.levels}"
        )


class Batches:
    """Batches of a set that is on a device whole, in an order that is drawn anew for each pass.

    The last, partial batch of a pass is left out. Binary images are drawn afresh at every use.

    Args:
        images: the data set.
        likelihood: of the model, which decides what it sees of an image.
        size: images in a batch, at most those of the training set.
        generator: of order and binarisation, on the device where the batches will be.

    Attributes:
        left: the rows of each batch that is left of the pass, the next one last.
    """

    def __init__(
        self, images: Images, likelihood: PixelLikelihood, size: int, generator: torch.Generator
    ) -> None:
        self.pixels = images.train.to(generator.device)
        self.likelihood, self.levels, self.size = likelihood, images.levels, size
        self.generator = generator
        self.left: list[Tensor] = []

    def next_rows(self) -> Tensor:
        """Return which images the next batch has, ``(B,)`` int64."""
        if not self.left:
            n = len(self.pixels)
            order = torch.randperm(n, generator=self.generator, device=self.pixels.device)
            self.left = [rows for rows in order.split(self.size) if len(rows) == self.size]
        return self.left.pop()

    def inputs(self, rows: Tensor) -> Tensor:
        """Return these images as a model takes them, ``(B, C, H, W)``."""
        pixels = self.pixels.index_select(0, rows)  # faster than indexing on a CPU
        return training_inputs(self.likelihood, pixels, self.levels, self.generator)
