"""Lower bounds on log p(x) in nats an image, and what is trained in their place.

All are differentiable functions of tensors and models, to be maximised, without state.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from wnrl.errors import UsageError
from wnrl.limits import FromZero, Whole
from wnrl.nn.functional import wide
from wnrl.vae.model import VAE, Terms
from wnrl.vae.posteriors import Source


class Elbo(NamedTuple):
    """The two terms of the evidence lower bound."""

    reconstruction: Tensor
    """log p(x | z), the mean over samples z from q(z | x), ``(B,)``."""
    kl_groups: Tensor
    """KL(q(z | x) ‖ p(z)) by latent variable or group, ``(B, G)``; in closed form wherever there
    is one."""

    @property
    def kl(self) -> Tensor:
        """KL(q(z | x) ‖ p(z)), ``(B,)``."""
        return self.kl_groups.sum(-1)

    @property
    def value(self) -> Tensor:
        """The bound: reconstruction − KL, ``(B,)``."""
        return self.reconstruction - self.kl


def elbo(
    model: Callable[..., Terms], x: Tensor, n_samples: Whole = 1, generator: Source = None
) -> Elbo:
    """Return the ELBO at reparametrised samples (Kingma & Welling 2014, arXiv:1312.6114, eq. 10).

    Args:
        model: the VAE, in the mode the caller wants, or its compiled ``forward``.
        x: images, ``(B, C, H, W)``.
        n_samples: over how many samples an image is averaged.
        generator: for the samples, on the device of ``x``; None for the global one.

    Raises:
        UsageError: ``n_samples`` is not above zero.
    """
    terms = model(x, n_samples, generator)
    return Elbo(terms.reconstruction.mean(0), terms.kl.mean(0))


def beta_elbo(
    bound: Elbo,
    beta: FromZero | Tensor = 1.0,
    free_bits: FromZero = 0.0,
    free_bits_per: Literal["group", "example"] = "group",
) -> Tensor:
    """Return what to maximise in the place of the ELBO; never report it.

    Args:
        bound: from ``elbo``.
        beta: factor of the KL (Higgins et al., 2017). In a tensor it is not looked at.
        free_bits: nats that each group has free, 0 for the plain KL. The KL of a group counts as
            at least that much, and is not pressed below it.
        free_bits_per: where it is compared: ``"group"``, the mean over the batch (Kingma et al.,
            2016, arXiv:1606.04934), or ``"example"``, each image alone.

    Returns:
        reconstruction − beta · KL with the free bits filled up, ``(B,)``.

    Raises:
        UsageError: a number below zero.
    """
    kl = bound.kl_groups
    if free_bits:
        if free_bits_per == "group":
            kl = kl.mean(0, keepdim=True)
        kl = kl.clamp_min(free_bits)
    return bound.reconstruction - beta * kl.sum(-1)


def log_mean_exp(log_weights: Tensor) -> Tensor:
    """Return the importance-weighted bound (Burda et al., 2016, arXiv:1509.00519, eq. 8).

    Args:
        log_weights: log p(x, z_k) − log q(z_k | x) in nats, ``(K, B)``.

    Returns:
        The bound in nats, ``(B,)``; K = 1 gives the ELBO, and it tightens as K grows.
    """
    return wide(log_weights).logsumexp(0) - math.log(len(log_weights))


def iwae(
    model: Callable[..., Terms],
    x: Tensor,
    n_samples: Whole,
    generator: Source = None,
    *,
    chunk: Whole | None = None,
) -> Tensor:
    """Return the importance-weighted bound of a model, in as little memory as one wants.

    With ``chunk``, samples go through the model in chunks whose activations are not kept: the
    backward pass computes them again from the same noise. Value and gradient are those of all
    samples at once, but for norms with batch statistics in train mode, whose batch is a chunk.
    What batch renormalisation and spectral norm did in training cannot be computed again: the
    backward pass raises UsageError.

    Args:
        model: the VAE, or its compiled ``forward``.
        x: images, ``(B, C, H, W)``.
        n_samples: K.
        generator: for the samples, on the device of ``x``; None for the global one.
        chunk: samples an image in one pass; None for all.

    Returns:
        The bound in nats, ``(B,)``.

    Raises:
        UsageError: ``n_samples`` or ``chunk`` is not above zero.
    """
    if chunk is None or chunk >= n_samples:
        return log_mean_exp(model(x, n_samples, generator).log_weights)

    def part(k: int, state: Tensor) -> tuple[Tensor, Tensor]:
        source = torch.Generator(x.device)
        source.set_state(state)  # the same noise again in the backward pass
        return model(x, k, source).log_weights, source.get_state()

    if generator is None:  # one that the global one seeds
        generator = torch.Generator(x.device).manual_seed(int(torch.randint(2**62, ())))
    state, parts = generator.get_state(), []
    for left in range(n_samples, 0, -chunk):
        log_weights, state = checkpoint(
            part, min(chunk, left), state, use_reentrant=False, preserve_rng_state=False
        )
        parts.append(log_weights)
    generator.set_state(state)
    return log_mean_exp(torch.cat(parts))


def dreg(model: VAE, x: Tensor, n_samples: Whole, generator: Source = None) -> Tensor:
    """Return the importance-weighted bound, its gradient for the encoder doubly reparametrised.

    The gradient of the encoder's parameters has the same expectation as that of ``iwae``, and a
    signal that does not vanish as K grows (Tucker et al., 2019, arXiv:1810.04152): it is that of
    the samples alone, weighted by the squared importance weights. The gradient of the decoder's
    parameters is that of ``iwae`` exactly.

    Args:
        model: one whose posterior has a density at any z: not IAF, not DRAW. Its samples have to be
            independent: no batch norm in train mode.
        x: images, ``(B, C, H, W)``.
        n_samples: K.
        generator: for the samples, on the device of ``x``; None for the global one.

    Returns:
        The bound in nats, ``(B,)``.

    Raises:
        UsageError: ``n_samples`` is not above zero, the model's posterior has a density at its own
            samples only, or statistics of the batch couple the samples.
    """
    for name, part in model.named_modules():
        # As torch's have them, and ours.
        if part.training and not {"running_mean", "running_var"}.isdisjoint(part._buffers):
            raise UsageError(
                "dreg needs samples that do not see each other, got a model in train mode whose "
                f"{name} takes statistics of the batch"
            )
    q = model.posterior(x)
    z = q.sample((n_samples,), generator)
    with torch.enable_grad():
        at = z.detach().requires_grad_()
        log_joint = model.log_joint(x, at)
        log_weights = log_joint - q.log_prob(at).sum(-1)
        shares = log_weights.detach().softmax(0)  # (K, B)
        (slope,) = torch.autograd.grad((shares * log_weights).sum(), at, retain_graph=True)
    slope = shares.unsqueeze(-1) * slope  # the second factor of the weights
    surrogate = (shares * log_joint).sum(0) + (slope * z).sum((0, -1))
    return log_mean_exp(log_weights.detach()) + surrogate - surrogate.detach()
