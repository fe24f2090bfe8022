"""Variational autoencoders whose likelihoods can be compared."""

from wnrl.vae.bounds import Elbo, beta_elbo, dreg, elbo, iwae, iwae_bound, warm_up
from wnrl.vae.build import build, load
from wnrl.vae.config import PRESETS, VAEConfig
from wnrl.vae.measure import Likelihood, Protocol, nll
from wnrl.vae.model import VAE, Terms
from wnrl.vae.models import MLPVAE
from wnrl.vae.training import LogStep, train

__all__ = [
    "MLPVAE",
    "PRESETS",
    "VAE",
    "Elbo",
    "Likelihood",
    "LogStep",
    "Protocol",
    "Terms",
    "VAEConfig",
    "beta_elbo",
    "build",
    "dreg",
    "elbo",
    "iwae",
    "iwae_bound",
    "load",
    "nll",
    "train",
    "warm_up",
]
