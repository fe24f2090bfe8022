"""Bounds on the validation split while a model is trained."""

from collections.abc import Mapping

import torch
from torch import Tensor

from wnrl import tags
from wnrl.data import Images
from wnrl.errors import UsageError
from wnrl.vae.bounds import elbo, iwae
from wnrl.vae.config import VAEConfig
from wnrl.vae.inputs import fixed_inputs
from wnrl.vae.likelihoods import bits_per_dim
from wnrl.vae.measure import IMAGES, evaluating
from wnrl.vae.model import VAE


class Validation:
    """The validation split on a model's device: the same binary images and noise at every call.

    Args:
        model: what will be measured.
        images: the data set.
        config: the run.

    Attributes:
        criterion: the tag of the bound by which the best weights are chosen: the ELBO, or the
            importance-weighted bound where that is what is trained.

    Raises:
        UsageError: there are no images to validate on.
    """

    def __init__(self, model: VAE, images: Images, config: VAEConfig) -> None:
        if not len(images.valid):
            raise UsageError(f"split 'valid' of dataset {images.name!r} has no images")
        self.model, self.config = model, config
        pixels, self.scale = fixed_inputs(model.likelihood, images.valid, images.levels, seed=0)
        self.pixels = pixels.to(next(model.parameters()).device)
        weighted = config.objective != "elbo"
        self.criterion = tags.VAE_VALID_IWAE if weighted else tags.VAE_VALID_ELBO

    @torch.no_grad()
    def bounds(self) -> dict[str, Tensor]:
        """Means over the split in eval mode, still on the device."""
        model, config = self.model, self.config
        generator = torch.Generator(self.pixels.device).manual_seed(0)
        found: dict[str, list[Tensor]] = {}
        with evaluating(model):
            for batch in self.pixels.split(IMAGES):
                x = batch / self.scale
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
                for tag, value in values.items():
                    found.setdefault(tag, []).append(value)
        return {tag: torch.cat(values).mean() for tag, values in found.items()}

    def bits(self, scalars: Mapping[str, float]) -> dict[str, float]:
        """Bits a value of the bound in ``scalars``, for grey levels with a probability."""
        likelihood = self.model.likelihood
        if likelihood.levels in (2, None):
            return {}
        nats = -scalars[self.criterion]
        return {tags.VAE_VALID_BITS: bits_per_dim(nats, self.model.image_shape, likelihood)}
