"""The variational autoencoders, one idea a file."""

from collections.abc import Callable
from functools import partial

from wnrl.vae.model import VAE
from wnrl.vae.models.conv import ConvVAE, FrameVAE
from wnrl.vae.models.draw import DRAW
from wnrl.vae.models.iaf import ConvIAFVAE
from wnrl.vae.models.mlp import MLPVAE, TwoLayerVAE

__all__ = ["DRAW", "MLPVAE", "MODELS", "ConvIAFVAE", "ConvVAE", "FrameVAE", "TwoLayerVAE"]

MODELS: dict[str, Callable[..., VAE]] = {
    "mlp": MLPVAE,
    "mlp2": TwoLayerVAE,
    "conv": ConvVAE,
    "conv_iaf": ConvIAFVAE,
    "draw": partial(DRAW, attention=False),
    "draw_attention": DRAW,
    "frames": FrameVAE,
}
"""Models by name; each takes ``image_shape``, ``likelihood`` and its own sizes."""
