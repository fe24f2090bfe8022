"""What a variational autoencoder is here, and the base class with one stochastic layer.

Models are built plainly and then converted, by a norm whose place each model says.
"""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from wnrl.data.images import check_channels_first
from wnrl.errors import UsageError, as_usage_error, check_positive
from wnrl.limits import Whole
from wnrl.nn import data_init
from wnrl.nn.base import WeightNormed
from wnrl.nn.sites import WEIGHTED
from wnrl.vae.likelihoods import Bernoulli
from wnrl.vae.pixels import PixelLikelihood
from wnrl.vae.posteriors import DiagonalNormal, Posterior, Source, standard_normal_log_prob

ImageShape = tuple[Whole, Whole, Whole]


class Terms(NamedTuple):
    """What every bound is made of, at K samples z from q(z | x), in nats.

    G counts latent variables, or groups of them: ``latent_dim`` for one stochastic layer.
    """

    reconstruction: Tensor
    """log p(x | z), ``(K, B)``."""
    log_ratio: Tensor
    """log q(z | x) − log p(z) by variable, ``(K, B, G)``."""
    kl: Tensor
    """The expectation of ``log_ratio`` in closed form where there is one (given the variables
    before), else ``log_ratio`` itself, ``(K, B, G)``."""

    @property
    def log_weights(self) -> Tensor:
        """What one sample says of log p(x): log p(x, z) − log q(z | x), ``(K, B)``."""
        return self.reconstruction - self.log_ratio.sum(-1)


class VAE(nn.Module):
    """p(z) = N(0, I), p(x | z) of independent pixels, q(z | x) = N(mu(x), diag exp(log_var(x))).

    Calling it gives ``Terms``, so that a compiled ``forward`` trains like the model itself.

    Subclasses set ``encoder``, images to ``(B, 2 Z)``, and ``decoder``, ``(R, Z)`` to the R · P · H
    · W parameters of R images in any shape. K samples of B images always go through the decoder as
    one batch of K · B: batch norm in train mode sees them all together.

    Args:
        image_shape: C, H, W of the images.
        latent_dim: Z.
        likelihood: of the pixels; Bernoulli by default.

    Attributes:
        image_shape: as given.
        latent_dim: as given.
        likelihood: what ``decode``'s parameters mean.

    Raises:
        UsageError: a shape or a size that no image has, or a likelihood of other images.
    """

    encoder: nn.Module
    decoder: nn.Module
    heads: ClassVar[tuple[str, ...]] = ("encoder", "decoder")
    """Parts whose last layer gives the parameters of a distribution; the last part is p(x | z)."""
    flat: ClassVar[bool] = False
    """Whether ``encoder`` takes images as rows of values."""

    def __init__(
        self, image_shape: ImageShape, latent_dim: Whole, likelihood: PixelLikelihood | None = None
    ) -> None:
        super().__init__()
        channels, height, width = image_shape
        check_channels_first("image_shape", image_shape)
        self.image_shape, self.latent_dim = (channels, height, width), latent_dim
        self.likelihood = Bernoulli(channels) if likelihood is None else likelihood
        if self.likelihood.channels != channels:
            raise UsageError(
                f"likelihood must be of {channels} channels, as image_shape {image_shape} is, "
                f"got {self.likelihood.channels}"
            )

    @property
    def params_shape(self) -> ImageShape:
        """P, H, W of the likelihood's parameters."""
        return (self.likelihood.maps, *self.image_shape[1:])

    def hidden_layers(self) -> list[str]:
        """Return the names of the layers that a normalizer stands behind.

        Where none are named, conversion looks for layers that are directly followed by a
        nonlinearity in an ``nn.Sequential``, and warns of the others.
        """
        return []

    def output_layers(self) -> list[str]:
        """Return the names of the layers that give the parameters of a distribution.

        Layers inside of a flow are none: what they give goes on to the next.
        """
        inside = [self.get_submodule(head).named_modules(prefix=head) for head in self.heads]
        layers = (*WEIGHTED, WeightNormed)
        return [[name for name, part in parts if isinstance(part, layers)][-1] for parts in inside]

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map images to the posterior of the first stochastic layer.

        Args:
            x: grey levels divided by (levels − 1), ``(B, C, H, W)``.

        Returns:
            mu and log_var, ``(B, Z)`` each, float32 at least.

        Raises:
            UsageError: what ``checked`` refuses.
        """
        x = self.checked(x)
        return DiagonalNormal.from_output(self.encoder(x.flatten(1) if self.flat else x))

    def decode(self, z: Tensor) -> Tensor:
        """Map latents ``(..., Z)`` to parameters of the likelihood, ``(..., P, H, W)``.

        Raises:
            UsageError: latents of another size, type or device.
        """
        self._check_home("z", z)
        if not z.dim() or z.shape[-1] != self.latent_dim:
            raise UsageError(f"z must have shape (..., {self.latent_dim}), got {tuple(z.shape)}")
        params = self.decoder(z.reshape(-1, z.shape[-1]))
        return params.reshape(*z.shape[:-1], *self.params_shape)

    def forward(self, x: Tensor, n_samples: int = 1, generator: Source = None) -> Terms:
        """Return the terms of the bounds on log p(x).

        Args:
            x: images, ``(B, C, H, W)``.
            n_samples: K.
            generator: for the samples, on the device of ``x``; None for the global one.

        Raises:
            UsageError: what ``checked`` refuses.
        """
        q = DiagonalNormal(*self.encode(x))
        return self.terms(x, q, q.sample((n_samples,), generator))

    def terms(self, x: Tensor, q: DiagonalNormal, z: Tensor) -> Terms:
        """Return the terms at samples ``(K, B, Z)`` from q(z | x)."""
        log_ratio = q.log_prob(z) - standard_normal_log_prob(z)
        reconstruction = self.likelihood.log_prob(x, self.decode(z))
        return Terms(reconstruction, log_ratio, q.kl().expand_as(log_ratio))

    def posterior(self, x: Tensor) -> Posterior:
        """Return q(z | x), where its density can be had at any z.

        Raises:
            UsageError: the model has it at its own samples only.
        """
        return DiagonalNormal(*self.encode(x))

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(x, z) in nats, ``(K, B)``.

        Args:
            x: images, ``(B, C, H, W)``.
            z: all latent variables, ``(K, B, Z)``; 1 in the place of B is broadcast.
        """
        log_prior = standard_normal_log_prob(z).flatten(2).sum(-1)
        return self.likelihood.log_prob(x, self.decode(z)) + log_prior

    def log_weights(self, x: Tensor, n_samples: int, generator: Source = None) -> Tensor:
        """Return log importance weights log p(x, z_k) − log q(z_k | x) of samples from q.

        Args:
            x: images, ``(B, C, H, W)``.
            n_samples: K.
            generator: for the samples, on the device of ``x``; None for the global one.

        Returns:
            Nats, ``(K, B)``. Their mean over K estimates the ELBO, log-mean-exp the IWAE bound.

        Raises:
            UsageError: what ``checked`` refuses, or ``n_samples`` is not above zero.
        """
        check_positive(n_samples=n_samples)
        return self(x, n_samples, generator).log_weights

    def sample(self, n: int, generator: Source = None) -> Tensor:
        """Return expected images given draws of z from the prior, within [0, 1], ``(n, C, H, W)``.

        Raises:
            UsageError: ``n`` is not above zero.
        """
        check_positive(n=n)
        return self.likelihood.mean(self.decode(self.draw_prior(n, generator)))

    def draw_prior(self, n: int, generator: Source = None) -> Tensor:
        """Draw ``n`` of what ``decode`` takes from the prior, ``(n, Z)``."""
        return self.standard_noise((n, self.latent_dim), generator)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return expected images at the middle of the posterior, within [0, 1], shape of ``x``."""
        return self.likelihood.mean(self.decode(self.encode(x)[0]))

    def data_init(self, x: Tensor) -> None:
        """Call ``wnrl.data_init`` on a batch, but for the decoder's last layer.

        The bias of that, which starts at the mean of the data, would be lost.

        Args:
            x: images that represent the data, ``(B, C, H, W)``; a few hundred.

        Raises:
            UsageError: what ``checked`` or ``wnrl.data_init`` refuses.
        """
        data_init(self, self.checked(x), skip=self.output_layers()[-1:])

    def standard_noise(self, shape: Sequence[int], generator: Source) -> Tensor:
        """Draw from N(0, 1) on the device of the model and in its type."""
        like = next(self.parameters())
        return torch.randn(tuple(shape), generator=generator, device=like.device, dtype=like.dtype)

    def checked(self, x: Tensor) -> Tensor:
        """Return ``x`` if it is a batch of images of the model's shape, device and type.

        Raises:
            UsageError: it is not, or has values that ``PixelLikelihood.check`` refuses.
        """
        self._check_home("x", x)
        if x.dim() != 4 or x.shape[1:] != self.image_shape:
            wanted = ", ".join(map(str, self.image_shape))
            raise UsageError(f"x must have shape (B, {wanted}), got {tuple(x.shape)}")
        self.likelihood.check(x)
        return x

    def _check_home(self, name: str, t: Tensor) -> None:
        """Raise UsageError if ``t`` is no tensor on the device of the model and of its type."""
        if not isinstance(t, Tensor):
            raise UsageError(f"{name} must be a tensor, got {type(t).__name__}")
        like = next(self.parameters())
        if t.device != like.device:
            raise UsageError(f"{name} must be on {like.device}, as the model is, got {t.device}")
        if t.dtype == like.dtype:
            return
        if not (t.is_floating_point() and torch.is_autocast_enabled(t.device.type)):
            raise UsageError(f"{name} must be {like.dtype}, as the model is, got {t.dtype}")

    def output_bias(self) -> Tensor:
        """Return what is added to the decoder's output last: P · H · W values, or P, by map."""
        name = self.output_layers()[-1]
        with as_usage_error(f"{name}, the last layer, must have a bias", AttributeError):
            return self.get_parameter(f"{name}.bias")

    @torch.no_grad()
    def start_at(self, pixel_means: Tensor) -> None:
        """Set the output bias so that an untrained model's images are about ``pixel_means``.

        Args:
            pixel_means: means of the training set in [0, 1], ``(C, H, W)``; their mean over
                positions where the bias is by map.
        """
        bias = self.output_bias()
        if bias.shape == (self.likelihood.maps,):
            pixel_means = pixel_means.mean((1, 2), keepdim=True)
        bias.copy_(self.likelihood.start(pixel_means).reshape(bias.shape))
