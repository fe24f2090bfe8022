"""One small instance of every model, and log p(x) by brute force for those with two latents."""

import math
import warnings

import torch

from wnrl import convert
from wnrl.vae.models import MODELS

SIZES = {
    "mlp": {"hidden": (9, 8), "latent_dim": 3},
    "mlp2": {"hidden_below": (9, 8), "hidden_above": (7,), "latent_dims": (4, 3)},
    "conv": {"latent_dim": 3},
    "conv_iaf": {"latent_dim": 3, "width": 11},
    "draw": {"latent_dim": 3, "draw_steps": 3, "hidden_size": 7},
    "draw_attention": {"latent_dim": 3, "draw_steps": 3, "hidden_size": 7},
    "frames": {"latent_dim": 3},
}
# DRAW has no hidden layer, so these norms find no place in it.
HOMELESS = {"draw": ("weight_mean", "mean", "batch", "batch_renorm")}
HOMELESS["draw_attention"] = HOMELESS["draw"]


def image_shape(name):
    return (3, 64, 64) if name == "frames" else (1, 4, 4)


def build(name, norm="none", seed=0, shape=None, **changes):
    torch.manual_seed(seed)
    model = MODELS[name](shape or image_shape(name), **{**SIZES[name], **changes})
    with warnings.catch_warnings():
        if norm in HOMELESS.get(name, ()):
            warnings.filterwarnings("ignore", r"norm .* left .* as they were", UserWarning)
        convert(model, norm, hidden=model.hidden_layers() or None)
    return model


def images(name, n=3, seed=7):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, *image_shape(name), generator=generator).round()


@torch.no_grad()
def grid_log_p(model, x, shape=(2,), side=121, reach=6.0):
    """log p(x) by the sum over a grid of the two latent variables; ``shape`` is that of one z."""
    line = torch.linspace(-reach, reach, side)
    z = torch.cartesian_prod(line, line).reshape(-1, 1, *shape)
    cell = 2 * math.log(2 * reach / (side - 1))
    return model.log_joint(x, z).double().logsumexp(0) + cell


@torch.no_grad()
def sharpen(model, factor=4.0):
    """Makes the latents of an untrained model matter, by larger weights in its last layers."""
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and ("decoder" in name or "write" in name):
            parameter.mul_(factor)
    return model.eval()
