"""A VAE with one latent variable, whose log p(x) a grid gives to many digits."""

import math

import torch

from wnrl.data import Images
from wnrl.vae import MLPVAE
from wnrl.vae.posteriors import standard_normal_log_prob


def tiny_vae(seed=0):
    torch.manual_seed(seed)
    model = MLPVAE((1, 2, 2), (8,), 1)
    with torch.no_grad():
        model.decoder[-1].weight.mul_(6)  # the latent matters, so the encoder's posterior is wrong
        model.encoder[-1].bias[1] += 0.7  # and wider than the prior, so no weight is huge
    return model.eval()


def tiny_images(n=60):
    pixels = torch.randint(0, 2, (n, 1, 2, 2), generator=torch.Generator().manual_seed(3))
    pixels = pixels.to(torch.uint8)
    return Images("tiny", pixels, pixels[:20], pixels, levels=2, split="all of them")


@torch.no_grad()
def exact_log_p(model, x):
    z = torch.linspace(-12, 12, 20001).unsqueeze(1)
    step = math.log(24 / 20000)
    log_likelihood = model.likelihood.log_prob(
        x.unsqueeze(1), model.decode(z)
    ).double()  # (B, grid)
    return (log_likelihood + standard_normal_log_prob(z).sum(1).double()).logsumexp(1) + step
