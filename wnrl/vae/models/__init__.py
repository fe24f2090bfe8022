"""The variational autoencoders, one idea a file."""

from collections.abc import Callable

from wnrl.vae.model import VAE
from wnrl.vae.models.mlp import MLPVAE

__all__ = ["MLPVAE", "MODELS"]

MODELS: dict[str, Callable[..., VAE]] = {"mlp": MLPVAE}
"""Models by name; each takes ``image_shape``, ``likelihood``, ``pixel_means`` and its own sizes."""
