"""MLPs: Kingma & Welling's VAE in the sizes of Burda et al. (2016), one and two layers of z."""

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from wnrl.limits import ActivationKey, Whole
from wnrl.networks import mlp
from wnrl.vae.model import VAE, ImageShape, Terms
from wnrl.vae.pixels import PixelLikelihood
from wnrl.vae.posteriors import DiagonalNormal, Source, standard_normal_log_prob


def hidden_layers(model: VAE) -> list[str]:
    """Return the names of all layers of a model's MLPs but the last, each before its activation."""
    inside = {head: [*model.get_submodule(head)._modules] for head in model.heads}
    return [f"{head}.{name}" for head, names in inside.items() for name in names[:-1:2]]


class MLPVAE(VAE):
    """Encoder and decoder are multilayer perceptrons.

    The defaults are those of Burda et al. (arXiv:1509.00519, section 5, one stochastic layer):
    784-200-200-50 with tanh, and mirrored.

    Args:
        image_shape: C, H, W of the images.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
        latent_dim: Z.
        activation: a key of ``wnrl.networks.ACTIVATIONS``.
        likelihood: of the pixels; Bernoulli by default.

    Raises:
        UsageError: a size is not above zero, an unknown activation, or means or a likelihood of
            other images.
    """

    flat = True
    hidden_layers = hidden_layers

    def __init__(
        self,
        image_shape: ImageShape,
        hidden: Sequence[Whole] = (200, 200),
        latent_dim: Whole = 50,
        activation: ActivationKey = "tanh",
        *,
        likelihood: PixelLikelihood | None = None,
    ) -> None:
        super().__init__(image_shape, latent_dim, likelihood)
        n_values, n_params = prod(self.image_shape), prod(self.params_shape)
        self.encoder = mlp(n_values, hidden, 2 * latent_dim, activation=activation)
        self.decoder = mlp(latent_dim, hidden[::-1], n_params, activation=activation)


class Chain(NamedTuple):
    """q(z1 | x) q(z2 | z1), with z1 and z2 side by side."""

    first: DiagonalNormal
    upper: nn.Module
    """From z1 to mu and log_var of z2."""

    def sample(self, shape: Sequence[int] = (), generator: Source = None) -> Tensor:
        """Return reparametrised samples, ``(*shape, B, Z1 + Z2)``."""
        z1 = self.first.sample(shape, generator)
        z2 = DiagonalNormal.from_output(self.upper(z1)).sample((), generator)
        return torch.cat([z1, z2], -1)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log-density of each variable given those of the layer before, in nats."""
        size = self.first.mu.shape[-1]
        z1, z2 = z[..., :size], z[..., size:]
        second = DiagonalNormal.from_output(self.upper(z1))
        return torch.cat([self.first.log_prob(z1), second.log_prob(z2)], -1)


class TwoLayerVAE(VAE):
    """p(z2) p(z1 | z2) p(x | z1) and q(z1 | x) q(z2 | z1), every arrow an MLP.

    The defaults are the paper's: x 784-200-200-z1 100, z1 100-100-100-z2 50, and mirrored.
    ``encode`` and ``decode`` are about z1. In ``Terms``, G runs over the variables of z1, then
    those of z2; the KL of z1 has no closed form, since p(z1 | z2) depends on the sample of z2.

    Args:
        image_shape: C, H, W of the images.
        hidden_below: widths of the hidden layers between x and z1.
        hidden_above: widths of the hidden layers between z1 and z2.
        latent_dims: of z1 and z2.
        activation: a key of ``wnrl.networks.ACTIVATIONS``.
        likelihood: of the pixels; Bernoulli by default.

    Raises:
        UsageError: as for ``MLPVAE``.
    """

    flat = True
    heads = ("encoder", "upper_encoder", "upper_decoder", "decoder")
    hidden_layers = hidden_layers

    def __init__(
        self,
        image_shape: ImageShape,
        hidden_below: Sequence[Whole] = (200, 200),
        hidden_above: Sequence[Whole] = (100, 100),
        latent_dims: tuple[Whole, Whole] = (100, 50),
        activation: ActivationKey = "tanh",
        *,
        likelihood: PixelLikelihood | None = None,
    ) -> None:
        first, second = latent_dims
        super().__init__(image_shape, first, likelihood)
        self.upper_dim = second

        net = partial(mlp, activation=activation)
        self.encoder = net(prod(self.image_shape), hidden_below, 2 * first)
        self.upper_encoder = net(first, hidden_above, 2 * second)
        self.upper_decoder = net(second, hidden_above[::-1], 2 * first)
        self.decoder = net(first, hidden_below[::-1], prod(self.params_shape))

    def prior_below(self, z2: Tensor) -> DiagonalNormal:
        """Return the prior p(z1 | z2), from ``(..., Z2)``."""
        return DiagonalNormal.from_output(self.upper_decoder(z2))

    def forward(self, x: Tensor, n_samples: int = 1, generator: Source = None) -> Terms:
        """Do as ``VAE.forward``."""
        q1 = DiagonalNormal(*self.encode(x))
        z1 = q1.sample((n_samples,), generator)
        q2 = DiagonalNormal.from_output(self.upper_encoder(z1))
        z2 = q2.sample((), generator)
        ratio1 = q1.log_prob(z1) - self.prior_below(z2).log_prob(z1)
        ratio2 = q2.log_prob(z2) - standard_normal_log_prob(z2)
        return Terms(
            self.likelihood.log_prob(x, self.decode(z1)),
            torch.cat([ratio1, ratio2], -1),
            torch.cat([ratio1, q2.kl()], -1),
        )

    def posterior(self, x: Tensor) -> Chain:
        """Return q(z1, z2 | x)."""
        return Chain(DiagonalNormal(*self.encode(x)), self.upper_encoder)

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(x, z1, z2) in nats; z1 and z2 are side by side, ``(K, B, Z1 + Z2)``."""
        z1, z2 = z[..., : self.latent_dim], z[..., self.latent_dim :]
        log_prior = self.prior_below(z2).log_prob(z1).sum(-1) + standard_normal_log_prob(z2).sum(-1)
        return self.likelihood.log_prob(x, self.decode(z1)) + log_prior

    def draw_prior(self, n: int, generator: Source = None) -> Tensor:
        """Draw ``n`` of z1 from the prior, ``(n, Z1)``."""
        z2 = self.standard_noise((n, self.upper_dim), generator)
        return self.prior_below(z2).sample((), generator)
