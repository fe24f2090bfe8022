"""The MLP variational autoencoder with a Bernoulli likelihood.

Built plainly, then converted: hidden layers are a Linear directly followed by its activation in an
``nn.Sequential``, which is what ``wnrl.convert`` looks for.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wnrl.networks import mlp
from wnrl.vae.likelihoods import bernoulli_log_prob, normal_log_prob, standard_normal_log_prob

MEAN_RANGE = (0.001, 0.999)


class MLPVAE(nn.Module):
    """p(z) = N(0, I), p(x | z) = Bernoulli(decoder(z)), q(z | x) = N(mu(x), diag exp(log_var(x))).

    Args:
        n_pixels: D, binary values in an image.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
        latent_dim: Z.
        activation: a key of ``wnrl.networks.ACTIVATIONS``.
        pixel_means: mean of each pixel over the training set in [0, 1], ``(D,)``: the output bias
            starts at its logit, clipped to [.001, .999] (Burda et al., 2016). None leaves torch's.
    """

    def __init__(
        self,
        n_pixels: int,
        hidden: Sequence[int],
        latent_dim: int,
        activation: str = "tanh",
        pixel_means: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.n_pixels, self.latent_dim = n_pixels, latent_dim
        self.encoder = mlp(n_pixels, hidden, 2 * latent_dim, activation=activation)
        self.decoder = mlp(latent_dim, hidden[::-1], n_pixels, activation=activation)
        if pixel_means is not None:
            head = self.decoder[-1]
            assert isinstance(head, nn.Linear)
            with torch.no_grad():
                head.bias.copy_(pixel_means.clamp(*MEAN_RANGE).logit())

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Binary images ``(B, D)`` to mu and log_var of q(z | x), ``(B, Z)`` each."""
        mu, log_var = self.encoder(x).chunk(2, dim=-1)
        return mu, log_var

    def decode(self, z: Tensor) -> Tensor:
        """Latents ``(..., Z)`` to Bernoulli logits ``(..., D)``.

        Leading axes are flattened on the way: batch norm would take a second one for channels.
        """
        return self.decoder(z.reshape(-1, self.latent_dim)).reshape(*z.shape[:-1], self.n_pixels)

    def log_weights(
        self, x: Tensor, n_samples: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Log importance weights log p(x, z_k) − log q(z_k | x) of samples from q.

        Args:
            x: binary images, ``(B, D)``.
            n_samples: K.
            generator: for the samples, on the device of ``x``.

        Returns:
            Nats, ``(K, B)``. Their mean over K estimates the ELBO, log-mean-exp the IWAE bound.
        """
        mu, log_var = self.encode(x)
        noise = torch.randn((n_samples, *mu.shape), generator=generator, device=x.device)
        z = mu + (0.5 * log_var).exp() * noise
        log_joint = bernoulli_log_prob(x, self.decode(z)) + standard_normal_log_prob(z)
        return log_joint - normal_log_prob(z, mu, log_var)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Pixel means p(x = 1 | z) for ``n`` draws of z from the prior, ``(n, D)``."""
        device = next(self.parameters()).device
        z = torch.randn((n, self.latent_dim), generator=generator, device=device)
        return self.decode(z).sigmoid()


MODELS: dict[str, type[MLPVAE]] = {"mlp": MLPVAE}
"""Kinds of VAE by name."""
