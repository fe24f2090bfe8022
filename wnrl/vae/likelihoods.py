"""Log-densities and divergences in nats, summed over the last axis."""

import math

from torch import Tensor
from torch.nn import functional as F


def bernoulli_log_prob(x: Tensor, logits: Tensor) -> Tensor:
    """Log-probability of binary ``x`` under independent Bernoullis, stable for any logit.

    Args:
        x: zeros and ones, ``(..., D)``; broadcast against ``logits``.
        logits: log p / (1 − p), ``(..., D)``.

    Returns:
        Nats, ``(...)``.
    """
    return (x * logits - F.softplus(logits)).sum(-1)


def normal_log_prob(z: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    """Log-density of ``z`` under N(mu, diag exp(log_var)).

    Args:
        z: ``(..., Z)``; broadcast against the other two.
        mu: means, ``(..., Z)``.
        log_var: logarithms of the variances, ``(..., Z)``.

    Returns:
        Nats, ``(...)``.
    """
    squares = (z - mu).square() * (-log_var).exp()
    return -0.5 * (squares + log_var + math.log(2 * math.pi)).sum(-1)


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """Log-density of ``z``, ``(..., Z)``, under N(0, I): nats, ``(...)``."""
    return -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)


def kl_from_standard_normal(mu: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mu, diag exp(log_var)) ‖ N(0, I)) (Kingma & Welling 2014, arXiv:1312.6114, app. B).

    Args:
        mu: means, ``(..., Z)``.
        log_var: logarithms of the variances, ``(..., Z)``.

    Returns:
        Nats, ``(...)``, never below zero but for rounding.
    """
    return 0.5 * (mu.square() + log_var.exp() - 1 - log_var).sum(-1)
