"""What a training sees, and with what noise: the same order and images for every norm.

Of several processes each takes its part of every batch, with noise of its own.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from wnrl.data import Images
from wnrl.errors import UsageError
from wnrl.norms import NORMS
from wnrl.vae import parallel
from wnrl.vae.config import VAEConfig
from wnrl.vae.inputs import training_inputs
from wnrl.vae.likelihoods import PixelLikelihood

NOISE = 1  # keeps the seeds of noise apart from those of other draws


class Batches:
    """Batches of a set that is on a device whole, in an order that is drawn anew for each pass.

    The last, partial batch of a pass is left out. Binary images are drawn afresh at every use.

    Args:
        images: the data set.
        likelihood: of the model, which decides what it sees of an image.
        size: images in a batch of all processes together, at most those of the training set.
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
        """This process's part of the next batch, as a model takes it, ``(B, C, H, W)``."""
        if not self.left:
            n = len(self.pixels)
            order = torch.randperm(n, generator=self.generator, device=self.pixels.device)
            self.left = [rows for rows in order.split(self.size) if len(rows) == self.size]
        pixels = self.pixels.index_select(0, self.left.pop())  # faster than indexing on a CPU
        x = training_inputs(self.likelihood, pixels, self.levels, self.generator)
        return x if parallel.count() == 1 else x[parallel.rank() :: parallel.count()]

    def state(self) -> list[Tensor]:
        """What is left of the pass, for ``restore``."""
        return list(self.left)

    def restore(self, left: Sequence[Tensor]) -> None:
        """Goes on from another's ``state``; that of the generator is the caller's."""
        self.left = [rows.to(self.pixels.device) for rows in left]


def noise_generator(seed: int, shared: torch.Generator) -> torch.Generator:
    """Where this process draws a model's samples from.

    Args:
        seed: of the run.
        shared: draws alike in all processes, and is what one alone takes.
    """
    if parallel.count() == 1:
        return shared
    seeds = np.random.SeedSequence((seed, NOISE, parallel.rank()))
    return torch.Generator(shared.device).manual_seed(int(seeds.generate_state(1)[0]))


def check_processes(config: VAEConfig) -> None:
    """Raises UsageError where the processes that there are cannot share the batches of a run."""
    n = parallel.count()
    if config.batch_size % n:
        raise UsageError(
            f"batch_size must be divisible by the {n} processes, got {config.batch_size}"
        )
    if n > 1 and NORMS[config.norm].batch_statistics:
        raise UsageError(
            f"norm {config.norm!r} takes statistics of a batch, of which each process has a part "
            "only: train it with one process"
        )
