"""What a gradient step minimises, and the bounds that a training is watched by."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from wnrl import tags
from wnrl.data import Images
from wnrl.diagnostics import relative_change
from wnrl.vae.bounds import beta_elbo, dreg, elbo, iwae
from wnrl.vae.config import VAEConfig
from wnrl.vae.inputs import fixed_inputs
from wnrl.vae.likelihoods import bits_per_dim
from wnrl.vae.measure import IMAGES, evaluating
from wnrl.vae.model import VAE, Terms
from wnrl.vae.posteriors import Source


def loss(
    model: Callable[..., Terms],
    x: Tensor,
    generator: Source,
    config: VAEConfig,
    kl_weight: float | Tensor,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of ``config`` on a batch.

    Args:
        model: the VAE, or but for ``dreg`` its compiled ``forward``.
        x: images, ``(B, C, H, W)``.
        generator: for the samples, on the device of ``x``.
        config: the run.
        kl_weight: factor of the KL in the ELBO: ``beta`` or the ``share_of_beta``.

    Returns:
        Minus the objective, the mean over the batch: a scalar to differentiate; and bounds and
        terms without beta or free bits, by tag: scalars, nats an image.
    """
    if config.objective == "elbo":
        bound = elbo(model, x, config.train_samples, generator)
        objective = beta_elbo(bound, kl_weight, config.free_bits, config.free_bits_per)
        reconstruction, kl = bound.reconstruction.mean(), bound.kl.mean()
        means = {
            tags.VAE_TRAIN_ELBO: reconstruction - kl,
            tags.VAE_TRAIN_RECONSTRUCTION: reconstruction,
            tags.VAE_TRAIN_KL: kl,
        }
        return -objective.mean(), means
    if config.objective == "iwae":
        mean = iwae(model, x, config.train_samples, generator, chunk=config.train_chunk).mean()
    else:
        assert isinstance(model, VAE)
        mean = dreg(model, x, config.train_samples, generator).mean()
    return -mean, {tags.VAE_TRAIN_IWAE: mean}


def share_of_beta(config: VAEConfig, step: int, steps_per_epoch: int) -> float:
    """Return which share of ``beta`` the KL's factor has reached after ``step`` gradient steps.

    It rises evenly from 0 to 1 over ``warm_up_epochs`` (Sønderby et al., 2016).
    """
    n_steps = round(config.warm_up_epochs * steps_per_epoch)
    return min(1.0, step / n_steps) if n_steps else 1.0


def measures_of(
    norms: Mapping[str, Tensor], before: Mapping[str, Tensor], after: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return how long gradients were and how far weights went, by tag.

    Args:
        norms: lengths of the layers' gradients before clipping.
        before: the effective weights before the step.
        after: those behind it.
    """
    changes = relative_change(before, after)
    return {
        tags.VAE_TRAIN_GRADIENT_NORM: get_total_norm(norms.values()),
        **{f"{tags.GRADIENT_NORM}/{name}": norm for name, norm in norms.items()},
        **{f"{tags.EFFECTIVE_LR}/{name}": change for name, change in changes.items()},
    }


class Validation:
    """The validation split on a model's device: the same binary images and noise at every call.

    Args:
        model: the VAE to measure.
        images: the data set.
        config: the run.

    Attributes:
        criterion: the tag of the bound that a curve has: the ELBO, or the importance-weighted bound
            where that is what is trained.

    Raises:
        UsageError: there are no images to validate on.
    """

    def __init__(self, model: VAE, images: Images, config: VAEConfig) -> None:
        self.model, self.config = model, config
        split = images.part("valid")
        pixels, self.scale = fixed_inputs(model.likelihood, split, images.levels, seed=0)
        self.pixels = pixels.to(next(model.parameters()).device)
        weighted = config.objective != "elbo"
        self.criterion = tags.VAE_VALID_IWAE if weighted else tags.VAE_VALID_ELBO

    def bounds(self, forward: Callable[..., Terms] | None = None) -> dict[str, Tensor]:
        """Return means over the split in eval mode, still on the device.

        Args:
            forward: called in the place of the model, such as the model with other weights.
        """
        model, config = forward or self.model, self.config
        generator = torch.Generator(self.pixels.device).manual_seed(0)
        batches: list[dict[str, Tensor]] = []
        with evaluating(self.model):
            for pixels in self.pixels.split(IMAGES):
                x = pixels / self.scale
                bound = elbo(model, x, generator=generator)
                values = {
                    tags.VAE_VALID_ELBO: bound.value,
                    tags.VAE_VALID_RECONSTRUCTION: bound.reconstruction,
                    tags.VAE_VALID_KL: bound.kl,
                }
                if self.criterion == tags.VAE_VALID_IWAE:
                    values[self.criterion] = iwae(
                        model, x, config.train_samples, generator, chunk=config.train_chunk
                    )
                batches.append(values)
        return {tag: torch.cat([values[tag] for values in batches]).mean() for tag in batches[0]}

    def bits(self, scalars: Mapping[str, float]) -> dict[str, float]:
        """Return bits a value of the bound in ``scalars``, for grey levels with a probability."""
        likelihood = self.model.likelihood
        if likelihood.levels in (2, None):
            return {}
        nats = -scalars[self.criterion]
        return {tags.VAE_VALID_BITS: bits_per_dim(nats, self.model.image_shape, likelihood)}
