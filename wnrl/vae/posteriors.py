"""Densities of Gaussians, and posteriors q(z | x) made of them."""

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from wnrl.nn.functional import wide

Source = torch.Generator | None
"""Where noise is drawn from, on the device that it is for; None for torch's global generator."""


def normal_log_prob(z: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    """Return the log-density of each ``z`` under N(mu, exp(log_var)): nats, elementwise."""
    squares = (z - mu).square() * (-log_var).exp()
    return -0.5 * (squares + log_var + math.log(2 * math.pi))


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """Return the log-density of each ``z`` under N(0, 1): nats, elementwise."""
    return -0.5 * (z.square() + math.log(2 * math.pi))


class Posterior(Protocol):
    """q(z | x) of B images, over all latent variables."""

    def sample(self, shape: Sequence[int] = (), generator: Source = None) -> Tensor:
        """Return reparametrised samples, ``(*shape, B, Z)``."""

    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log-density of each variable (given those before) in nats, shape of ``z``."""


class DiagonalNormal(NamedTuple):
    """N(mu, diag exp(log_var)), any leading axes; densities are by variable."""

    mu: Tensor
    log_var: Tensor

    @classmethod
    def from_output(cls, output: Tensor) -> "DiagonalNormal":
        """Take a network's output: mu in the first half of the features, log_var in the second."""
        return cls(*wide(output).chunk(2, -1))

    def sample(self, shape: Sequence[int] = (), generator: Source = None) -> Tensor:
        """Return reparametrised samples, ``(*shape, *mu.shape)``."""
        like, shape = self.mu, (*shape, *self.mu.shape)
        noise = torch.randn(shape, generator=generator, device=like.device, dtype=like.dtype)
        return self.at(noise)

    def at(self, noise: Tensor) -> Tensor:
        """Return the samples that standard normal noise leads to, ``(*shape, *mu.shape)``."""
        return self.mu + (0.5 * self.log_var).exp() * noise

    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log-density of each variable in nats."""
        return normal_log_prob(z, self.mu, self.log_var)

    def kl(self) -> Tensor:
        """Return KL(N(mu, exp(log_var)) ‖ N(0, 1)) (Kingma & Welling 2014, arXiv:1312.6114, B).

        Returns:
            Nats by variable, never below zero but for rounding.
        """
        return 0.5 * (self.mu.square() + self.log_var.exp() - 1 - self.log_var)
