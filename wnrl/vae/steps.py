"""A gradient step of a VAE: the loss of a batch, its gradient, the optimizer and the norm."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, get_total_norm

from wnrl import tags
from wnrl.data import Images
from wnrl.diagnostics import gradient_norms
from wnrl.diagnostics.weights import effective_weights, relative_change
from wnrl.graphs import Replayed
from wnrl.norms import NORMS
from wnrl.vae.config import VAEConfig
from wnrl.vae.inputs import Batches
from wnrl.vae.model import VAE, Terms
from wnrl.vae.nonfinite import Witness
from wnrl.vae.objectives import loss
from wnrl.vae.pixels import trusted

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": partial(torch.optim.Adam, fused=True),
    "adamax": partial(torch.optim.Adamax, foreach=True),
}


class GradientStep:
    """Does one step on some images, in place.

    Args:
        model: on its device.
        images: the data set of ``config``.
        config: the run.
        generator: of order, binarisation and noise, on the device.
        forward: as ``Trainer`` has it.

    Attributes:
        names: tags of the terms of the loss, once a step was done.
    """

    def __init__(
        self,
        model: VAE,
        images: Images,
        config: VAEConfig,
        generator: torch.Generator,
        forward: Callable[..., Terms] | None = None,
    ) -> None:
        self.model, self.config, self.generator = model, config, generator
        self.forward, self.device = forward or model, generator.device
        self.parameters = list(model.parameters())  # asked of the model, they take a while
        self.optimizer = OPTIMIZERS[config.optimizer](
            self.parameters, config.learning_rate, capturable=self.device.type == "cuda"
        )
        self.batches = Batches(images, model.likelihood, config.batch_size, generator)
        self.precision = torch.autocast(self.device.type, torch.bfloat16, enabled=config.amp)
        self.names: list[str] = []

    def replayed(self) -> Callable[..., Tensor]:
        """Return this to be recorded, or as it is where nothing can be."""
        if self.device.type != "cuda" or self.config.train_chunk is not None:
            return self
        return Replayed(self, self.device, [self.generator])

    def __call__(
        self,
        rows: Tensor,
        rate: float | Tensor,
        kl_weight: float | Tensor,
        witness: Witness | None = None,
        update: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """Do a gradient step.

        Args:
            rows: which images, ``(B,)``.
            rate: of learning.
            kl_weight: as ``loss`` has it.
            witness: looks at each tensor of the step.
            update: where to write, by tag, the length of the gradient before clipping and the
                relative change of each weight.

        Returns:
            The terms of the loss, in the order of ``names``.
        """
        config, x = self.config, self.batches.inputs(rows)
        forward = self.forward if witness is None else self.model
        with trusted(), self.precision:
            total, means = loss(forward, x, self.generator, config, kl_weight)
        if witness is not None:
            for tag, value in means.items():
                witness.look(tag, value)
        for parameter in self.parameters:
            parameter.grad = None
        total.backward()
        if witness is not None:
            witness.look_at_gradients()
        measured = update is not None
        norms = gradient_norms(self.model) if measured else {}
        if config.max_grad_norm is not None:
            clip_grad_norm_(self.parameters, config.max_grad_norm)
        before = effective_weights(self.model) if measured else {}
        for group in self.optimizer.param_groups:
            group["lr"] = rate.float() if isinstance(rate, Tensor) else rate
        self.optimizer.step()
        if (after_step := NORMS[config.norm].after_step) is not None:
            after_step(self.model)
        if update is not None:
            update |= measures_of(norms, before, effective_weights(self.model))
        self.names = list(means)
        return torch.stack([value.detach() for value in means.values()])


def measures_of(
    norms: Mapping[str, Tensor], before: Mapping[str, Tensor], after: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return how long gradients were and how far weights went, by tag.

    Args:
        norms: lengths of the layers' gradients before clipping.
        before: the effective weights before the step.
        after: those behind it.
    """
    return {
        tags.VAE_TRAIN_GRADIENT_NORM: get_total_norm(norms.values()),
        **_prefixed(tags.GRADIENT_NORM, norms),
        **_prefixed(tags.EFFECTIVE_LR, relative_change(before, after)),
    }


def _prefixed(prefix: str, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": value for name, value in values.items()}
