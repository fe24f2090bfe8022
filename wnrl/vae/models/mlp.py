"""MLPs with one stochastic layer: Kingma & Welling's VAE in the sizes of Burda et al. (2016)."""

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import Tensor

from wnrl.networks import mlp
from wnrl.vae.likelihoods import PixelLikelihood
from wnrl.vae.model import VAE, ImageShape
from wnrl.vae.posteriors import DiagonalNormal


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
        pixel_means: means of the training set in [0, 1], ``(C, H, W)``, where the output bias
            starts; None leaves torch's.

    Raises:
        UsageError: a size is not above zero, an unknown activation, or means or a likelihood of
            other images.
    """

    def __init__(
        self,
        image_shape: ImageShape,
        hidden: Sequence[int] = (200, 200),
        latent_dim: int = 50,
        activation: str = "tanh",
        *,
        likelihood: PixelLikelihood | None = None,
        pixel_means: Tensor | None = None,
    ) -> None:
        super().__init__(image_shape, latent_dim, likelihood)
        n_values, n_params = prod(self.image_shape), prod(self.params_shape)
        self.encoder = mlp(n_values, hidden, 2 * latent_dim, activation=activation)
        self.decoder = mlp(latent_dim, hidden[::-1], n_params, activation=activation)
        head: Any = self.decoder[-1]
        self.start_at(head.bias, pixel_means)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As ``VAE.encode``."""
        mu, log_var = DiagonalNormal.from_output(self.encoder(self.checked(x).flatten(1)))
        return mu, log_var
