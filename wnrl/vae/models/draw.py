"""DRAW (Gregor et al., 2015, arXiv:1502.04623): an image is drawn in steps, by two LSTMs."""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor, nn

from wnrl.errors import UsageError
from wnrl.limits import Whole
from wnrl.nn import data_init, shared_weights
from wnrl.nn.functional import wide
from wnrl.vae.model import VAE, ImageShape, Terms
from wnrl.vae.models.attention import Read, Write
from wnrl.vae.pixels import PixelLikelihood
from wnrl.vae.posteriors import DiagonalNormal, Source, standard_normal_log_prob

INIT_STD = 0.01
PASSES = 3  # of data_init: behind them, deviations are right to 1 %
States = tuple[Tensor, Tensor]


class Drawing(NamedTuple):
    """How R images were drawn in T steps."""

    z: Tensor
    """Latents, ``(R, T, Z)``."""
    q: DiagonalNormal
    """The posterior that each step's z is from, given the steps before, ``(R, T, Z)``."""
    canvas: Tensor
    """The canvas after the last step: parameters of the likelihood, ``(R, P, H, W)``."""
    encoded: tuple[Tensor, ...]
    """The encoder's state at each step, ``(R, H)`` each."""


class DRAW(VAE):
    """T steps: read, encode, sample z_t, decode, add to a canvas, which ends as the parameters.

    p(z) = Π N(z_t; 0, I) and q(z | x) = Π q(z_t | x, z_1 … z_{t−1}). ``encode`` gives the first
    step's posterior, and ``decode`` takes all steps, ``(..., T, Z)``. In ``Terms``, G counts steps.

    The defaults are those of the code that the weight norm paper started from: LSTMs of 256 units,
    z of 100, weights from N(0, 0.01²), biases of zero (but for those of ``window_head``); with
    attention, a window of 2 × 2 is read and one of 5 × 5 written. The first states of the LSTMs are
    zeros; the first canvas is trained.

    Args:
        image_shape: C, H, W of the images.
        latent_dim: Z, of each step.
        draw_steps: T; the published results have 64 with attention.
        hidden_size: units of each LSTM.
        attention: whether windows are read and written, or everything.
        read_size: N of the read window.
        write_size: N of the write window.
        likelihood: of the pixels; Bernoulli by default.

    Raises:
        UsageError: a size that is not above zero, a window of one filter, or means or a likelihood
            of other images.
    """

    heads = ("to_posterior", "write")

    def __init__(
        self,
        image_shape: ImageShape,
        latent_dim: Whole = 100,
        draw_steps: Whole = 10,
        hidden_size: Whole = 256,
        attention: bool = True,
        read_size: int = 2,
        write_size: int = 5,
        *,
        likelihood: PixelLikelihood | None = None,
    ) -> None:
        super().__init__(image_shape, latent_dim, likelihood)
        if min(read_size, write_size) < 2 or max(self.image_shape[1:]) < 2:
            raise UsageError(
                "read_size, write_size and the image must be at least 2, got "
                f"{read_size}, {write_size} and {self.image_shape}"
            )
        self.n_steps, self.hidden_size = draw_steps, hidden_size
        self.read = Read(self.image_shape, hidden_size, read_size if attention else None)
        self.write = Write(self.params_shape, hidden_size, write_size if attention else None)
        self.encoder = nn.LSTMCell(self.read.n_features + hidden_size, hidden_size)
        self.to_posterior = nn.Linear(hidden_size, 2 * latent_dim)
        self.decoder = nn.LSTMCell(latent_dim, hidden_size)
        for name, parameter in self.named_parameters():
            if "weight" in name:
                nn.init.normal_(parameter, std=INIT_STD)
            elif "where" not in name:
                nn.init.zeros_(parameter)
        self.first_canvas = nn.Parameter(torch.zeros(self.params_shape))

    def draw(self, x: Tensor, noise: Tensor) -> Drawing:
        """Draw images after ``x``.

        Args:
            x: images, ``(R, C, H, W)``.
            noise: standard normal, ``(T, R, Z)`` for T steps; zeros for the posterior's means.
        """
        steps: list[tuple[Tensor, ...]] = []
        canvas, encoded, decoded = self._start(len(x))
        with self._weights_once():
            for step_noise in noise:
                error = x - self.likelihood.mean(canvas)
                glimpse = self.read(x, error, decoded[0])
                encoded = self.encoder(torch.cat([glimpse, decoded[0]], -1), encoded)
                q = DiagonalNormal.from_output(self.to_posterior(encoded[0]))
                z = q.at(step_noise)
                canvas, decoded = self._step(z, canvas, decoded)
                steps.append((z, *q, encoded[0]))
        zs, mus, log_vars, encodings = zip(*steps, strict=True)
        q = DiagonalNormal(torch.stack(mus, 1), torch.stack(log_vars, 1))
        return Drawing(torch.stack(zs, 1), q, canvas, encodings)

    def canvases(self, z: Tensor) -> Tensor:
        """Return the canvas after each step of drawing latents.

        Args:
            z: ``(..., T, Z)``.

        Returns:
            Parameters of the likelihood, ``(T, ..., P, H, W)``.

        Raises:
            UsageError: latents of another size.
        """
        self._check_home("z", z)
        if z.dim() < 2 or z.shape[-1] != self.latent_dim or not z.shape[-2]:
            raise UsageError(f"z must have shape (..., T, {self.latent_dim}), got {tuple(z.shape)}")
        canvases: list[Tensor] = []
        canvas, _, decoded = self._start(z.shape[:-2].numel())
        with self._weights_once():
            for step_z in z.reshape(-1, *z.shape[-2:]).unbind(1):
                canvas, decoded = self._step(step_z, canvas, decoded)
                canvases.append(canvas.reshape(*z.shape[:-2], *self.params_shape))
        return torch.stack(canvases)

    def decode(self, z: Tensor) -> Tensor:
        """Map latents of all steps ``(..., T, Z)`` to the last canvas, ``(..., P, H, W)``.

        Raises:
            UsageError: latents of another size.
        """
        return self.canvases(z)[-1]

    def _start(self, rows: int) -> tuple[Tensor, States, States]:
        """Return the canvas and states before the first step."""
        zeros = self.first_canvas.new_zeros(rows, self.hidden_size)
        return self.first_canvas.expand(rows, -1, -1, -1), (zeros, zeros), (zeros, zeros)

    def _step(self, z: Tensor, canvas: Tensor, decoded: States) -> tuple[Tensor, States]:
        decoded = self.decoder(z, decoded)
        return wide(canvas) + self.write(decoded[0]), decoded

    def _weights_once(self) -> AbstractContextManager[None]:
        """Compute normalised weights once for all steps; a compiler sees that by itself."""
        return nullcontext() if torch.compiler.is_compiling() else shared_weights(self)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Do as ``VAE.encode``, for the first step."""
        first = self.draw(self.checked(x), x.new_zeros(1, len(x), self.latent_dim)).q
        return first.mu.squeeze(1), first.log_var.squeeze(1)

    def forward(self, x: Tensor, n_samples: int = 1, generator: Source = None) -> Terms:
        """Do as ``VAE.forward``; the KL of a step is in closed form given the steps before."""
        rows = self.checked(x).repeat(n_samples, 1, 1, 1)  # (K · B, C, H, W)
        noise = self.standard_noise((self.n_steps, len(rows), self.latent_dim), generator)
        drawing = self.draw(rows, noise)
        log_ratio = drawing.q.log_prob(drawing.z) - standard_normal_log_prob(drawing.z)
        shape = (n_samples, len(x), self.n_steps)
        return Terms(
            self.likelihood.log_prob(rows, drawing.canvas).reshape(shape[:2]),
            log_ratio.sum(-1).reshape(shape),
            drawing.q.kl().sum(-1).reshape(shape),
        )

    def draw_prior(self, n: int, generator: Source = None) -> Tensor:
        """Draw the latents of all steps ``n`` times from the prior, ``(n, T, Z)``."""
        return self.standard_noise((n, self.n_steps, self.latent_dim), generator)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return expected images from the mean of each step's posterior, within [0, 1]."""
        noise = x.new_zeros(self.n_steps, len(x), self.latent_dim)
        return self.likelihood.mean(self.draw(self.checked(x), noise).canvas)

    def output_bias(self) -> Tensor:
        """Return the first canvas, to which all that is written is added."""
        return self.first_canvas

    @torch.no_grad()
    def data_init(self, x: Tensor) -> None:
        """Standardise ``to_posterior`` over images and steps, to a deviation of 1/T.

        The paper has no such initialisation for recurrent layers, and here every layer runs at each
        step of a loop. The LSTM cells stay as they are, and so do the layers that place windows,
        whose biases spread them over the image, and what is written on the canvas, which starts at
        the mean of the data. What posteriors give adds up over T steps, in the KL: with 1/T for
        each, the sum deviates by 1 at most. It also changes what later steps see, so that it is
        done ``PASSES`` times over, on the same noise.

        Args:
            x: images that represent the data, ``(B, C, H, W)``; a few hundred.

        Raises:
            UsageError: what ``checked`` or ``wnrl.data_init`` refuses.
        """
        noise = self.standard_noise((self.n_steps, len(self.checked(x)), self.latent_dim), None)
        for _ in range(PASSES):
            states = torch.cat(self.draw(x, noise).encoded)  # (T · B, H)
            data_init(self.to_posterior, states, init_scale=1 / self.n_steps)

    def posterior(self, x: Tensor) -> NoReturn:
        """Raise UsageError: encoder and decoder drive each other, step by step."""
        raise UsageError("DRAW's posterior has a density at its own samples only")
