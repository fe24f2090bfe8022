"""Lower bounds on log p(x), in nats an image."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from wnrl.vae.likelihoods import bernoulli_log_prob, kl_from_standard_normal
from wnrl.vae.model import MLPVAE


class Elbo(NamedTuple):
    """The two terms of the evidence lower bound, ``(B,)`` each."""

    reconstruction: Tensor
    """log p(x | z) at one sample z from q(z | x)."""
    kl: Tensor
    """KL(q(z | x) ‖ p(z)), in closed form."""

    @property
    def value(self) -> Tensor:
        """The bound: reconstruction − KL, ``(B,)``."""
        return self.reconstruction - self.kl


def elbo(model: MLPVAE, x: Tensor, generator: torch.Generator | None = None) -> Elbo:
    """The ELBO at one reparametrised sample (Kingma & Welling 2014, arXiv:1312.6114, eq. 10).

    Args:
        model: the VAE, in the mode the caller wants.
        x: binary images, ``(B, D)``.
        generator: for the sample, on the device of ``x``.
    """
    mu, log_var = model.encode(x)
    noise = torch.randn(mu.shape, generator=generator, device=x.device)
    z = mu + (0.5 * log_var).exp() * noise
    return Elbo(bernoulli_log_prob(x, model.decode(z)), kl_from_standard_normal(mu, log_var))


def iwae_bound(log_joint: Tensor, log_posterior: Tensor) -> Tensor:
    """Importance-weighted bound on log p(x) (Burda et al., 2016, arXiv:1509.00519, eq. 8).

    Args:
        log_joint: log p(x, z_k) in nats, ``(K, B)``.
        log_posterior: log q(z_k | x) in nats, ``(K, B)``, same samples.

    Returns:
        The bound in nats, ``(B,)``; K = 1 gives the ELBO, and it tightens as K grows.

    Raises:
        ValueError: the two shapes differ.
    """
    if log_joint.shape != log_posterior.shape:
        raise ValueError(
            "log_joint and log_posterior must have one shape, "
            f"got {tuple(log_joint.shape)} and {tuple(log_posterior.shape)}"
        )
    return (log_joint - log_posterior).logsumexp(0) - math.log(len(log_joint))
