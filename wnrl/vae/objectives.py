"""What a gradient step maximises, from the words of a configuration."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from wnrl import tags
from wnrl.vae.bounds import beta_elbo, dreg, elbo, iwae, warm_up
from wnrl.vae.config import VAEConfig
from wnrl.vae.model import VAE, Terms


class Goal(NamedTuple):
    """One batch's share of the objective."""

    maximised: Tensor
    """Whose gradient is taken: a scalar."""
    means: dict[str, Tensor]
    """Bounds and terms without beta or free bits, by tag: scalars, nats an image."""


Forward = Callable[..., Terms]
Objective = Callable[[Forward, Tensor, torch.Generator | None, VAEConfig, float], Goal]


def _elbo(
    model: Forward, x: Tensor, generator: torch.Generator | None, config: VAEConfig, warmth: float
) -> Goal:
    bound = elbo(model, x, config.train_samples, generator)
    maximised = beta_elbo(bound, config.beta * warmth, config.free_bits, config.free_bits_per)
    reconstruction, kl = bound.reconstruction.mean(), bound.kl.mean()
    means = {
        tags.VAE_TRAIN_ELBO: reconstruction - kl,
        tags.VAE_TRAIN_RECONSTRUCTION: reconstruction,
        tags.VAE_TRAIN_KL: kl,
    }
    return Goal(maximised.mean(), means)


def _iwae(
    model: Forward, x: Tensor, generator: torch.Generator | None, config: VAEConfig, warmth: float
) -> Goal:
    bound = iwae(model, x, config.train_samples, generator, chunk=config.train_chunk).mean()
    return Goal(bound, {tags.VAE_TRAIN_IWAE: bound})


def _dreg(
    model: Forward, x: Tensor, generator: torch.Generator | None, config: VAEConfig, warmth: float
) -> Goal:
    assert isinstance(model, VAE)
    bound = dreg(model, x, config.train_samples, generator).mean()
    return Goal(bound, {tags.VAE_TRAIN_IWAE: bound})


OBJECTIVES: dict[str, Objective] = {"elbo": _elbo, "iwae": _iwae, "dreg": _dreg}
"""By the words of ``VAEConfig.objective``."""


def goal(
    model: Forward,
    x: Tensor,
    generator: torch.Generator | None,
    config: VAEConfig,
    warmth: float = 1.0,
) -> Goal:
    """The objective of ``config`` on a batch.

    Args:
        model: the VAE, or but for ``dreg`` its compiled ``forward``.
        x: images, ``(B, C, H, W)``.
        generator: for the samples, on the device of ``x``.
        config: the run.
        warmth: how much of the KL counts by now, from 0 to 1; see ``warmth_at``.
    """
    return OBJECTIVES[config.objective](model, x, generator, config, warmth)


def warmth_at(config: VAEConfig, step: int, steps_per_epoch: int) -> float:
    """The share of the KL that counts after ``step`` gradient steps."""
    return warm_up(step, round(config.warm_up_epochs * steps_per_epoch))
