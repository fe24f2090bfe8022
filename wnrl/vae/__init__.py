"""Variational autoencoders whose likelihoods can be compared."""

from wnrl.arguments import guard
from wnrl.vae.bounds import Elbo, beta_elbo, dreg, elbo, iwae
from wnrl.vae.config import VAEConfig
from wnrl.vae.construction import build, load
from wnrl.vae.likelihoods import LIKELIHOODS, bits_per_dim
from wnrl.vae.measure import Difference, Likelihood, Protocol, difference, nll
from wnrl.vae.model import VAE, Terms
from wnrl.vae.models import DRAW, MLPVAE, ConvIAFVAE, ConvVAE, FrameVAE, TwoLayerVAE
from wnrl.vae.presets import PRESETS, preset
from wnrl.vae.training import LogStep, Trainer, train

__all__ = [
    "DRAW", "LIKELIHOODS", "MLPVAE", "PRESETS", "VAE", "ConvIAFVAE", "ConvVAE", "Difference",
    "Elbo", "FrameVAE", "Likelihood", "LogStep", "Protocol", "Terms", "Trainer", "TwoLayerVAE",
    "VAEConfig", "beta_elbo", "bits_per_dim", "build", "difference", "dreg", "elbo", "iwae",
    "load", "nll", "preset", "train",
]  # fmt: skip

guard(globals(), __all__)
