"""What a training sees: the same order and images for every norm."""

from collections.abc import Sequence

import torch
from torch import Tensor

from wnrl.data import Images
from wnrl.vae.inputs import training_inputs
from wnrl.vae.likelihoods import PixelLikelihood


class Batches:
    """Batches of a set that is on a device whole, in an order that is drawn anew for each pass.

    The last, partial batch of a pass is left out. Binary images are drawn afresh at every use.

    Args:
        images: the data set.
        likelihood: of the model, which decides what it sees of an image.
        size: images in a batch, at most those of the training set.
        generator: of order and binarisation, on the device where the batches will be.
    """

    def __init__(
        self, images: Images, likelihood: PixelLikelihood, size: int, generator: torch.Generator
    ) -> None:
        self.pixels = images.train.to(generator.device)
        self.likelihood, self.levels, self.size = likelihood, images.levels, size
        self.generator = generator
        self.left: list[Tensor] = []

    def next(self) -> Tensor:
        """The next batch, as a model takes it, ``(B, C, H, W)``."""
        if not self.left:
            n = len(self.pixels)
            order = torch.randperm(n, generator=self.generator, device=self.pixels.device)
            self.left = [rows for rows in order.split(self.size) if len(rows) == self.size]
        pixels = self.pixels.index_select(0, self.left.pop())  # faster than indexing on a CPU
        return training_inputs(self.likelihood, pixels, self.levels, self.generator)

    def state(self) -> list[Tensor]:
        """What is left of the pass, for ``restore``."""
        return list(self.left)

    def restore(self, left: Sequence[Tensor]) -> None:
        """Goes on from another's ``state``; that of the generator is the caller's."""
        self.left = [rows.to(self.pixels.device) for rows in left]
