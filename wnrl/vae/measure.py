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
from typing import Any

import torch
from torch import Tensor, nn

from wnrl.data import Images
from wnrl.errors import UsageError, check_positive
from wnrl.vae.binarise import fixed_draw
from wnrl.vae.model import VAE

ROWS = 8192  # decoder rows (images times samples) in one pass: bounds the memory, whatever K is


@dataclass(frozen=True)
class Protocol:
    """How a likelihood is measured; numbers under different protocols do not compare."""

    dataset: str
    """What ``wnrl.data.load`` was asked for."""
    split: str = "test"
    """``train``, ``valid`` or ``test``; all of it is used."""
    n_samples: int = 1000
    """K importance samples an image: the bound tightens as K grows."""
    binarisation_seed: int = 0
    """Seed of the one binary draw of the images that every model is measured on."""
    noise_seed: int = 0
    """Seed of the importance samples' standard normal noise."""
    weights: str = "raw"
    """Whether the model carries its last weights (``raw``) or averaged ones."""

    def __post_init__(self) -> None:
        check_positive(n_samples=self.n_samples)


@dataclass(frozen=True)
class Likelihood:
    """What ``nll`` measured, image by image; in nats, float64, on the CPU."""

    protocol: Protocol
    per_image_nll: Tensor
    """−log p(x), estimated from above with K importance samples, ``(N,)``."""
    per_image_elbo: Tensor
    """The ELBO, a negative number, estimated from the same samples, ``(N,)``."""
    images_crc32: str
    """Checksum of the binary images: two results are paired only where it is the same."""

    @property
    def nll(self) -> float:
        """Mean of −log p(x) over the split, positive."""
        return self.per_image_nll.mean().item()

    @property
    def elbo(self) -> float:
        """Mean ELBO over the split, negative: ``nll`` ≤ −``elbo`` always."""
        return self.per_image_elbo.mean().item()

    @property
    def standard_error(self) -> float:
        """Standard error of ``nll`` over the images of the split."""
        return (self.per_image_nll.std() / math.sqrt(len(self.per_image_nll))).item()

    def record(self) -> dict[str, Any]:
        """The whole protocol in JSON types, to stand beside the number."""
        protocol = self.protocol
        return {
            "dataset": protocol.dataset,
            "split": protocol.split,
            "binarisation": f"one draw for all models, seed {protocol.binarisation_seed}",
            "K": protocol.n_samples,
            "N": len(self.per_image_nll),
            "mode": "eval",
            "weights": protocol.weights,
            "noise_seed": protocol.noise_seed,
            "images_crc32": self.images_crc32,
        }


def nll(model: VAE, images: Images, protocol: Protocol, *, rows: int = ROWS) -> Likelihood:
    """Measures −log p(x) on a whole split with K importance samples an image.

    The model is evaluated in eval mode, and every part of it is put back into the mode it was in.
    Log weights are joined in float64 by one running logsumexp.

    Args:
        model: on any device.
        images: the data set that ``protocol`` names.
        protocol: what to measure.
        rows: images times samples in one pass of the decoder, for memory and speed; it changes
            which noise meets which image, and nothing else.

    Raises:
        UsageError: ``protocol`` names another data set or no split.
    """
    if protocol.dataset != images.name:
        raise UsageError(f"protocol is for dataset {protocol.dataset!r}, got {images.name!r}")
    check_positive(rows=rows)
    binary = fixed_draw(images.part(protocol.split), images.levels, protocol.binarisation_seed)
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(protocol.noise_seed)
    nlls, elbos = [], []
    with evaluating(model), torch.no_grad():
        for batch in binary.split(max(1, min(rows // protocol.n_samples, 500))):
            x = batch.to(device).float()
            chunks = log_weight_chunks(model, x, protocol.n_samples, rows, generator)
            log_p, elbo = bounds_of_chunks(chunks)
            nlls.append(-log_p.cpu())
            elbos.append(elbo.cpu())
    crc = f"{zlib.crc32(binary.numpy().tobytes()):08x}"
    return Likelihood(protocol, torch.cat(nlls), torch.cat(elbos), crc)


def log_weight_chunks(
    model: VAE, x: Tensor, n_samples: int, rows: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """The K log weights of each image in pieces ``(k, B)`` of at most ``rows`` decoder rows."""
    k = max(1, rows // len(x))
    for start in range(0, n_samples, k):
        yield model.log_weights(x, min(k, n_samples - start), generator)


def bounds_of_chunks(chunks: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Joins chunks of log weights into the IWAE bound and the ELBO.

    Args:
        chunks: log weights in nats, ``(k, B)`` each, any k, at least one chunk.

    Returns:
        log-mean-exp and mean over all samples, float64, ``(B,)`` each; the same numbers as from
        one ``(K, B)`` tensor.
    """
    n_samples = 0
    log_sum: Tensor | None = None
    total: Tensor | None = None
    for chunk in chunks:
        log_weights = chunk.double()
        n_samples += len(log_weights)
        part, summed = log_weights.logsumexp(0), log_weights.sum(0)
        log_sum = part if log_sum is None else torch.logaddexp(log_sum, part)
        total = summed if total is None else total + summed
    assert log_sum is not None
    assert total is not None
    return log_sum - math.log(n_samples), total / n_samples


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode for every module inside; each one's own mode comes back at the end."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
