"""The negative log-likelihood, and the protocol that makes one number comparable with another.

−ELBO called NLL, importance samples that are too few, a fresh binarisation for each model, part of
a split, chunks averaged instead of joined, batch norm left in train mode: each moves the number by
more than the norms differ. ``nll`` is the one place where it is computed.
"""

import math
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from wnrl.data import Images
from wnrl.data.images import PARTS
from wnrl.errors import NonFiniteError, UsageError
from wnrl.limits import Limited, Whole, WholeFromZero, one_of
from wnrl.nn import frozen
from wnrl.vae.inputs import check_levels, fixed_inputs
from wnrl.vae.likelihoods import bits_per_dim
from wnrl.vae.model import VAE

# Decoder rows (images times samples) in one pass, of 784 parameters of pixels or else fewer: they
# bound the memory, whatever K is. More than this is slower on a CPU, since it leaves the caches.
ROWS = {"cpu": 2**11, "cuda": 2**16}
WEIGHTS = ("raw", "averaged")
IMAGES = 500  # the most that are encoded in one pass
ACTIVE = 0.01  # variance of a latent variable's posterior mean over images, above which it is used


@dataclass(frozen=True)
class Protocol(Limited):
    """How a likelihood is measured; numbers under different protocols do not compare."""

    dataset: str
    """What ``wnrl.data.load`` was asked for."""
    split: Annotated[str, one_of(PARTS)] = "test"
    """``train``, ``valid`` or ``test``; all of it is used."""
    n_samples: Whole = 1000
    """K importance samples an image: the bound tightens as K grows."""
    binarisation_seed: WholeFromZero = 0
    """Seed of the one binary draw of the images that every model is measured on."""
    noise_seed: WholeFromZero = 0
    """Seed of the importance samples' standard normal noise."""
    weights: Annotated[str, one_of(WEIGHTS)] = "raw"
    """Whether the model carries its last weights (``raw``) or averaged ones (``averaged``)."""


@dataclass(frozen=True)
class Likelihood:
    """What ``nll`` measured, image by image; in nats, float64, on the CPU."""

    protocol: Protocol
    per_image_nll: Tensor
    """−log p(x), estimated from above with K importance samples, ``(N,)``."""
    per_image_elbo: Tensor
    """The ELBO, a negative number, estimated from the same samples, ``(N,)``."""
    active_units: int
    """Latent variables of the first stochastic layer that the images change: those whose posterior
    mean has a variance over the split above 0.01 (Burda et al., 2016, arXiv:1509.00519, 5.2)."""
    latent_units: int
    """How many there are."""
    bits_per_dim: float | None
    """``nll`` in bits a value; None for binary images, where it is not in use, and densities."""
    images_crc32: str
    """Checksum of the images as the model saw them: two results are paired only where it is the
    same."""
    kind: str
    """What p(x | z) is, in words."""
    scores: str
    """``probability``, or ``density``: the two do not compare."""

    @property
    def nll(self) -> float:
        """Mean of −log p(x) over the split, positive for a probability."""
        return self.per_image_nll.mean().item()

    @property
    def elbo(self) -> float:
        """Mean ELBO over the split: ``nll`` ≤ −``elbo`` always."""
        return self.per_image_elbo.mean().item()

    @property
    def standard_error(self) -> float:
        """Standard error of ``nll`` over the images of the split."""
        return standard_error(self.per_image_nll)

    def numbers(self) -> dict[str, Any]:
        """Return the means, and how they were measured, in JSON types."""
        return {
            "nll": self.nll,
            "elbo": self.elbo,
            "nll_standard_error": self.standard_error,
            "bits_per_dim": self.bits_per_dim,
            "active_units": self.active_units,
            "latent_units": self.latent_units,
            "protocol": self.record(),
        }

    def record(self) -> dict[str, Any]:
        """Return the whole protocol in JSON types, to stand beside the number."""
        protocol = self.protocol
        return {
            "dataset": protocol.dataset,
            "split": protocol.split,
            "likelihood": self.kind,
            "binarisation": f"one draw for all models, seed {protocol.binarisation_seed}",
            "K": protocol.n_samples,
            "N": len(self.per_image_nll),
            "mode": "eval",
            "weights": protocol.weights,
            "noise_seed": protocol.noise_seed,
            "images_crc32": self.images_crc32,
        }


@dataclass(frozen=True)
class Difference:
    """How much higher one model's NLL is than another's, on the same images."""

    mean: float
    """Nats an image; below zero where the first model is better."""
    standard_error: float
    """Over images. Both models may be off by more than this at another seed of training."""
    n_images: int
    """N."""


def difference(first: Likelihood, second: Likelihood) -> Difference:
    """Compare two models image by image, which removes what images differ by.

    Raises:
        UsageError: they are of other images, of another K, or one is a density and one is not.
    """
    for what, one, other in (
        ("images (images_crc32)", first.images_crc32, second.images_crc32),
        ("K", first.protocol.n_samples, second.protocol.n_samples),
        ("likelihood", first.scores, second.scores),
    ):
        if one != other:
            raise UsageError(f"the two runs differ in their {what}: {one} and {other}")
    apart = first.per_image_nll - second.per_image_nll
    return Difference(apart.mean().item(), standard_error(apart), len(apart))


def standard_error(values: Tensor) -> float:
    """Return the standard error of the mean of ``values``, ``(N,)``."""
    return (values.std() / math.sqrt(len(values))).item()


def nll(model: VAE, images: Images, protocol: Protocol, *, rows: Whole | None = None) -> Likelihood:
    """Measure −log p(x) on a whole split with K importance samples an image.

    The model is evaluated in eval mode, in its own type also under autocast, with the weights of
    normalised layers computed once, and every part of it is put back into the mode it was in. Log
    weights are joined in float64 by one running logsumexp. Memory does not depend on K.

    Args:
        model: on any device.
        images: the data set that ``protocol`` names.
        protocol: what to measure.
        rows: images times samples in one pass of the decoder, for memory and speed; None for what
            suits the device. It changes which noise meets which image, and nothing else.

    Raises:
        UsageError: ``protocol`` names another data set or no split, the split has no images, or the
            model's likelihood is of other grey levels.
        NonFiniteError: log p(x) of an image is NaN or infinite.
    """
    if protocol.dataset != images.name:
        raise UsageError(f"protocol is for dataset {protocol.dataset!r}, got {images.name!r}")
    likelihood = model.likelihood
    check_levels(likelihood, images)
    pixels, scale = fixed_inputs(
        likelihood, images.part(protocol.split), images.levels, protocol.binarisation_seed
    )
    like = next(model.parameters())
    device = like.device
    if rows is None:
        most = ROWS.get(device.type, ROWS["cpu"])
        rows = max(1, min(most, most * 784 // math.prod(model.params_shape)))
    size = max(1, min(rows // protocol.n_samples, IMAGES))
    both: list[Tensor] = []
    with evaluating(model), frozen(model), torch.autocast(device.type, enabled=False):
        for block, part in enumerate(pixels.split(size)):
            x = part.to(like) / scale
            generator = block_generator(device, protocol.noise_seed, block * size)
            k = max(1, rows // len(x))
            left = range(protocol.n_samples, 0, -k)
            chunks = (model.log_weights(x, min(k, n), generator) for n in left)
            both.append(torch.stack(bounds_of_chunks(chunks)))
        means = [model.encode(part.to(like) / scale)[0] for part in pixels.split(IMAGES)]
    bounds = torch.cat(both, 1).cpu()
    if bad := (~bounds.isfinite().all(0)).nonzero().flatten().tolist():
        raise NonFiniteError(
            f"log p(x) of {len(bad)} of {len(pixels)} {protocol.split} images is not finite, "
            f"that of image {bad[0]} first"
        )
    log_p, elbo = bounds
    spread = torch.cat(means).double().cpu().var(0)
    per_image, bits = -log_p, None
    if likelihood.levels not in (2, None):
        bits = bits_per_dim(per_image.mean().item(), images.shape, likelihood)
    return Likelihood(
        protocol,
        per_image,
        elbo,
        active_units=int((spread > ACTIVE).sum()),
        latent_units=len(spread),
        bits_per_dim=bits,
        images_crc32=f"{zlib.crc32(pixels.numpy().tobytes()):08x}",
        kind=likelihood.meaning,
        scores="density" if likelihood.levels is None else "probability",
    )


def block_generator(device: torch.device, seed: int, start: int) -> torch.Generator:
    """Return the source of the noise for the images, or the steps, from ``start`` on."""
    mixed = np.random.SeedSequence((seed, start)).generate_state(1)
    return torch.Generator(device).manual_seed(int(mixed[0]))


def bounds_of_chunks(chunks: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Join chunks of log weights into the IWAE bound and the ELBO.

    Args:
        chunks: log weights in nats, ``(k, B)`` each, any k, at least one chunk.

    Returns:
        log-mean-exp and mean over all samples, float64, ``(B,)`` each; the same numbers as from
        one ``(K, B)`` tensor.
    """
    parts = [(len(w), w.logsumexp(0), w.sum(0)) for w in map(Tensor.double, chunks)]
    sizes, log_sums, sums = zip(*parts, strict=True)
    log_sum, total = reduce(torch.logaddexp, log_sums), reduce(torch.add, sums)
    return log_sum - math.log(sum(sizes)), total / sum(sizes)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Have every module in eval mode and no gradient inside; each one's mode comes back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
