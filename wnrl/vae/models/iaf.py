"""Inverse autoregressive flow (Kingma et al., 2016, arXiv:1606.04934): a posterior that bends."""

from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wnrl.errors import UsageError
from wnrl.limits import Whole
from wnrl.nn.functional import wide
from wnrl.nn.layers import MaskedLinear
from wnrl.vae.model import VAE, ImageShape, Terms
from wnrl.vae.models.conv import conv_decoder, conv_encoder, conv_hidden
from wnrl.vae.pixels import PixelLikelihood
from wnrl.vae.posteriors import DiagonalNormal, Source, standard_normal_log_prob

KEEP = 2.0
"""Added to the gates before the sigmoid: at first a step keeps 88 % of z (the paper's 1 to 2)."""


class MADE(nn.Module):
    """Two numbers for each z_i from z_1 … z_{i−1} and a context (Germain et al., 2015).

    The context reaches every unit, beside what the masks let through, so no unit is without input.
    No normalizer stands here: one over the features would let every z_j reach every output.

    Args:
        latent_dim: Z.
        context_dim: size of the context.
        width: hidden units.
    """

    def __init__(self, latent_dim: int, context_dim: int, width: int) -> None:
        super().__init__()
        order = torch.arange(latent_dim)
        # A hidden unit of degree d sees z_0 … z_d.
        degrees = torch.arange(width) % max(1, latent_dim - 1)
        inward, outward = degrees.unsqueeze(1) >= order, order.unsqueeze(1) > degrees
        inward, outward = (F.pad(m.float(), (0, context_dim), value=1.0) for m in (inward, outward))
        self.hidden = MaskedLinear(latent_dim + context_dim, width, inward)
        self.head = MaskedLinear(width + context_dim, 2 * latent_dim, outward.repeat(2, 1))

    def forward(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return shifts and gates, ``(..., Z)`` each; the context is broadcast to ``z``."""
        context = context.expand(*z.shape[:-1], -1)
        hidden = F.elu(self.hidden(torch.cat([z, context], -1)))
        m, s = wide(self.head(torch.cat([hidden, context], -1))).chunk(2, -1)
        return m, s


def iaf_step(z: Tensor, m: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``σ z + (1 − σ) m`` with ``σ = sigmoid(s + KEEP)`` (the paper's algorithm 1).

    Args:
        z: ``(..., Z)``.
        m: shifts; m_i may depend on z_1 … z_{i−1} only.
        s: gates, likewise.

    Returns:
        The new z, and log σ: log |∂z'_i/∂z_i|, whose sum is the Jacobian's log-determinant.
    """
    keep = (s + KEEP).sigmoid()
    return keep * z + (1 - keep) * m, F.logsigmoid(s + KEEP)


class ConvIAFVAE(VAE):
    """``ConvVAE`` whose posterior goes through steps of inverse autoregressive flow.

    A diagonal normal gives z_0; each step transforms it, given a context from the encoder, and
    reverses the order of the variables. ``encode`` gives mu and log_var of z_0. In ``Terms``, the
    KL is ``log_ratio`` itself: a flow has no closed form.

    Args:
        image_shape: C, H, W of the images.
        latent_dim: Z.
        depth: number of steps.
        width: hidden units of each step's MADE.
        likelihood: of the pixels; Bernoulli by default.

    Raises:
        UsageError: as for ``ConvVAE``.
    """

    hidden_layers = conv_hidden  # MADE has none

    def __init__(
        self,
        image_shape: ImageShape,
        latent_dim: Whole = 32,
        depth: Whole = 2,
        width: Whole = 320,
        *,
        likelihood: PixelLikelihood | None = None,
    ) -> None:
        super().__init__(image_shape, latent_dim, likelihood)
        self.encoder = conv_encoder(self.image_shape, 3 * latent_dim)
        self.steps = nn.ModuleList(MADE(latent_dim, latent_dim, width) for _ in range(depth))
        self.decoder = conv_decoder(latent_dim, self.params_shape)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Do as ``VAE.encode``, for z_0, before the flow."""
        return self._encode(x)[0]

    def _encode(self, x: Tensor) -> tuple[DiagonalNormal, Tensor]:
        output = self.encoder(self.checked(x))
        start, context = output.split([2 * self.latent_dim, self.latent_dim], -1)
        return DiagonalNormal.from_output(start), context

    def flow(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Do all steps.

        Args:
            z: z_0, ``(..., Z)``.
            context: broadcast to it, ``(..., Z)``.

        Returns:
            The last z, and log |∂z/∂z_0| by variable of it, ``(..., Z)`` each.
        """
        log_det = torch.zeros_like(z)
        for made in self.steps:
            z, log_keep = iaf_step(z, *made(z, context))
            z, log_det = z.flip(-1), (log_det + log_keep).flip(-1)
        return z, log_det

    def forward(self, x: Tensor, n_samples: int = 1, generator: Source = None) -> Terms:
        """Do as ``VAE.forward``."""
        q, context = self._encode(x)
        start = q.sample((n_samples,), generator)
        z, log_det = self.flow(start, context)
        log_q = q.log_prob(start)
        if len(self.steps) % 2:
            log_q = log_q.flip(-1)  # by variable of the last z, as log_det is
        log_ratio = log_q - log_det - standard_normal_log_prob(z)
        return Terms(self.likelihood.log_prob(x, self.decode(z)), log_ratio, log_ratio)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return expected images where the flow takes the mean of z_0, within [0, 1]."""
        q, context = self._encode(x)
        return self.likelihood.mean(self.decode(self.flow(q.mu, context)[0]))

    def posterior(self, x: Tensor) -> NoReturn:
        """Raise UsageError: inverting the flow for the density of any z takes Z steps."""
        raise UsageError("an IAF posterior has a density at its own samples only")
