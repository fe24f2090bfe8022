"""Lower bounds on log p(x) in nats an image, and what is trained in their place.

All are differentiable functions of tensors and models, to be maximised, without state.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from wnrl.errors import UsageError, check_choice, check_positive
from wnrl.vae.model import VAE, Terms
from wnrl.vae.pixels import wide

FREE_BITS = ("group", "example")


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
    model: Callable[..., Terms],
    x: Tensor,
    n_samples: int = 1,
    generator: torch.Generator | None = None,
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
    check_positive(n_samples=n_samples)
    terms = model(x, n_samples, generator)
    return Elbo(terms.reconstruction.mean(0), terms.kl.mean(0))


def beta_elbo(
    bound: Elbo, beta: float | Tensor = 1.0, free_bits: float = 0.0, free_bits_per: str = "group"
) -> Tensor:
    """Return what to maximise in the place of the ELBO; never report it.

    Args:
        bound: from ``elbo``.
        beta: factor of the KL (Higgins et al., 2017); see ``warm_up``. In a tensor it is not
            looked at.
        free_bits: nats that each group has free, 0 for the plain KL. The KL of a group counts as
            at least that much, and is not pressed below it.
        free_bits_per: where it is compared: ``"group"``, the mean over the batch (Kingma et al.,
            2016, arXiv:1606.04934), or ``"example"``, each image alone.

    Returns:
        reconstruction − beta · KL with the free bits filled up, ``(B,)``.

    Raises:
        UsageError: an unknown word, or a number below zero.
    """
    check_choice("free_bits_per", free_bits_per, FREE_BITS)
    for name, value in (("beta", beta), ("free_bits", free_bits)):
        if not isinstance(value, Tensor) and not 0 <= value < math.inf:
            raise UsageError(f"{name} must be zero or above, got {value!r}")
    kl = bound.kl_groups
    if free_bits:
        if free_bits_per == "group":
            kl = kl.mean(0, keepdim=True)
        kl = kl.clamp_min(free_bits)
    return bound.reconstruction - beta * kl.sum(-1)


def warm_up(step: int, n_steps: int) -> float:
    """Return a beta that rises evenly from 0 at step 0 to 1 at ``n_steps`` (Sønderby et al., 2016).

    Raises:
        UsageError: a number below zero.
    """
    if min(step, n_steps) < 0:
        raise UsageError(f"step and n_steps must not be negative, got {step} and {n_steps}")
    return min(1.0, step / n_steps) if n_steps else 1.0


def iwae_bound(log_joint: Tensor, log_posterior: Tensor) -> Tensor:
    """Return the importance-weighted bound (Burda et al., 2016, arXiv:1509.00519, eq. 8).

    Args:
        log_joint: log p(x, z_k) in nats, ``(K, B)``.
        log_posterior: log q(z_k | x) in nats, ``(K, B)``, same samples.

    Returns:
        The bound in nats, ``(B,)``; K = 1 gives the ELBO, and it tightens as K grows.

    Raises:
        UsageError: the two shapes differ.
    """
    if log_joint.shape != log_posterior.shape:
        raise UsageError(
            "log_joint and log_posterior must have one shape, "
            f"got {tuple(log_joint.shape)} and {tuple(log_posterior.shape)}"
        )
    return log_mean_exp(log_joint - log_posterior)


def log_mean_exp(log_weights: Tensor) -> Tensor:
    """Return the logarithm of the mean over K of ``exp(log_weights)``, ``(K, B)`` to ``(B,)``."""
    return wide(log_weights).logsumexp(0) - math.log(len(log_weights))


def iwae(
    model: Callable[..., Terms],
    x: Tensor,
    n_samples: int,
    generator: torch.Generator | None = None,
    *,
    chunk: int | None = None,
) -> Tensor:
    """Return the importance-weighted bound of a model, in as little memory as one wants.

    With ``chunk``, samples go through the model in chunks whose activations are not kept: the
    backward pass computes them again from the same noise. Value and gradient are those of all
    samples at once (but for norms with batch statistics in train mode, whose batch is a chunk, and
    whose running statistics then move twice).

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
    check_positive(n_samples=n_samples)
    if chunk is None or chunk >= n_samples:
        return log_mean_exp(model(x, n_samples, generator).log_weights)
    check_positive(chunk=chunk)

    def part(k: int, state: Tensor) -> tuple[Tensor, Tensor]:
        source = torch.Generator(x.device)
        source.set_state(state)  # the same noise again in the backward pass
        return model(x, k, source).log_weights, source.get_state()

    source = generator or default_generator(x.device)
    state, parts = source.get_state(), []
    for start in range(0, n_samples, chunk):
        k = min(chunk, n_samples - start)
        log_weights, state = checkpoint(
            part, k, state, use_reentrant=False, preserve_rng_state=False
        )
        parts.append(log_weights)
    source.set_state(state)
    return log_mean_exp(torch.cat(parts))


def dreg(model: VAE, x: Tensor, n_samples: int, generator: torch.Generator | None = None) -> Tensor:
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
    check_positive(n_samples=n_samples)
    _check_independent(model)
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


def _check_independent(model: nn.Module) -> None:
    """Raise UsageError if log p(x, z_k) depends on the other samples of a batch too."""
    for name, part in model.named_modules():
        # As torch's have them, and ours.
        if part.training and not {"running_mean", "running_var"}.isdisjoint(part._buffers):
            raise UsageError(
                "dreg needs samples that do not see each other, got a model in train mode whose "
                f"{name} takes statistics of the batch"
            )


def default_generator(device: torch.device) -> torch.Generator:
    """Return the generator that torch draws from on ``device`` where none is given."""
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        return torch.cuda.default_generators[index]
    return torch.default_generator
