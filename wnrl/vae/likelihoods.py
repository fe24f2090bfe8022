"""p(x | z): the likelihoods of images by name, their units, and the densities of Gaussians.

``wnrl.vae.pixels`` says what they have in common.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from wnrl.errors import UsageError
from wnrl.vae.logistic import LOG_SCALE_RANGE, DiscretisedLogistic, LogisticMixture
from wnrl.vae.pixels import PixelLikelihood, can_look, wide

__all__ = [
    "LIKELIHOODS",
    "LOG_SCALE_RANGE",
    "LOG_VAR_RANGE",
    "Bernoulli",
    "DiscretisedLogistic",
    "LogisticMixture",
    "NormalDensity",
    "PixelLikelihood",
    "bits_per_dim",
    "kl_from_standard_normal",
    "normal_log_prob",
    "standard_normal_log_prob",
    "wide",
]

LOG_VAR_RANGE = (-10.0, 10.0)
"""Of the Gaussian density, which has no upper bound where the variance has no lower one."""


class Bernoulli(PixelLikelihood):
    """Binary images; P = C logits (log p / (1 − p)).

    Grey levels under a Bernoulli are no likelihood: binarise them first. On a CPU, where values can
    be looked at, ``log_prob`` refuses them.
    """

    meaning = "Bernoulli, from logits"

    def __init__(self, channels: int, levels: int = 2) -> None:
        super().__init__(channels, levels)
        if levels != 2:
            raise UsageError(f"a Bernoulli is of 2 levels, got levels={levels}: binarise the data")
        self.maps = channels

    def pixel_log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        """As the base class says."""
        if can_look(x) and not torch.equal(x, x.square()):
            raise UsageError("x must be zeros and ones for a Bernoulli: binarise the grey levels")
        return x * params - F.softplus(params)

    def mean(self, params: Tensor) -> Tensor:
        """As the base class says."""
        return wide(params).sigmoid()

    def start(self, pixel_means: Tensor) -> Tensor:
        """Logits of the means, clipped to [.001, .999] (Burda et al., 2016)."""
        return pixel_means.clamp(0.001, 0.999).logit()


class NormalDensity(PixelLikelihood):
    """A Gaussian with a learned variance: a *density* of x in [0, 1], not a probability.

    Its nats compare with nothing but themselves: they depend on the unit of x, and there are no
    bits per dimension. P = 2 C: first the means in [0, 1], then the logarithms of the variances.
    """

    meaning = "Gaussian density with a learned variance; no probability, no bits/dim"
    limits = (-torch.finfo(torch.float32).max, torch.finfo(torch.float32).max)

    def __init__(self, channels: int, levels: int = 256) -> None:
        super().__init__(channels, levels)
        self.levels = None

    def pixel_log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        """Log-density by pixel."""
        mean, log_var = params.chunk(2, -3)
        return normal_log_prob(x, mean, log_var.clamp(*LOG_VAR_RANGE))

    def mean(self, params: Tensor) -> Tensor:
        """As the base class says."""
        return wide(params).chunk(2, -3)[0].clamp(0, 1)

    def start(self, pixel_means: Tensor) -> Tensor:
        """As the base class says, with variance 1."""
        return torch.cat([pixel_means, torch.zeros_like(pixel_means)])


LIKELIHOODS: dict[str, type[PixelLikelihood]] = {
    "bernoulli": Bernoulli,
    "logistic": DiscretisedLogistic,
    "logistic_mixture": LogisticMixture,
    "normal": NormalDensity,
}
"""Likelihoods by name; each is made from the number of channels and of grey levels."""


def bits_per_dim(nats: float, image_shape: tuple[int, ...], likelihood: PixelLikelihood) -> float:
    """−log p(x) as bits a value: ``nats / (C · H · W · ln 2)``.

    A uniform model of 256 levels has 8.000.

    Args:
        nats: −log p(x) an image, of the discrete levels.
        image_shape: C, H, W.
        likelihood: what the nats are from.

    Raises:
        UsageError: ``likelihood`` is a density.
    """
    if likelihood.levels is None:
        raise UsageError(f"bits per dimension need a probability, got a {likelihood.meaning}")
    return nats / (math.prod(image_shape) * math.log(2))


def normal_log_prob(z: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    """Log-density of each ``z`` under N(mu, exp(log_var)): nats, elementwise."""
    squares = (z - mu).square() * (-log_var).exp()
    return -0.5 * (squares + log_var + math.log(2 * math.pi))


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """Log-density of each ``z`` under N(0, 1): nats, elementwise."""
    return -0.5 * (z.square() + math.log(2 * math.pi))


def kl_from_standard_normal(mu: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mu, exp(log_var)) ‖ N(0, 1)) (Kingma & Welling 2014, arXiv:1312.6114, app. B).

    Returns:
        Nats, elementwise, never below zero but for rounding.
    """
    return 0.5 * (mu.square() + log_var.exp() - 1 - log_var)
