"""Variational autoencoders whose likelihoods can be compared."""

from wnrl.vae.bounds import Elbo, elbo, iwae_bound
from wnrl.vae.build import build, load
from wnrl.vae.config import PRESETS, VAEConfig
from wnrl.vae.measure import Likelihood, Protocol, nll
from wnrl.vae.model import MLPVAE
from wnrl.vae.training import LogStep, train

__all__ = [
    "MLPVAE",
    "PRESETS",
    "Elbo",
    "Likelihood",
    "LogStep",
    "Protocol",
    "VAEConfig",
    "build",
    "elbo",
    "iwae_bound",
    "load",
    "nll",
    "train",
]
