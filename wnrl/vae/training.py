"""The training loop: the whole set on the device as uint8, shuffled and binarised there."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wnrl import tags
from wnrl.data import Images
from wnrl.diagnostics import weight_lengths
from wnrl.errors import NonFiniteError
from wnrl.nn.projection import project_
from wnrl.norms import NORMS
from wnrl.vae.bounds import elbo
from wnrl.vae.config import SCHEDULES, VAEConfig
from wnrl.vae.inputs import fixed_inputs, training_inputs
from wnrl.vae.measure import evaluating
from wnrl.vae.model import VAE

TRAIN_TAGS = (tags.VAE_TRAIN_ELBO, tags.VAE_TRAIN_RECONSTRUCTION, tags.VAE_TRAIN_KL)
VALID_TAGS = (tags.VAE_VALID_ELBO, tags.VAE_VALID_RECONSTRUCTION, tags.VAE_VALID_KL)


@dataclass(frozen=True)
class LogStep:
    """Where a training stands."""

    step: int
    """Gradient steps done."""
    total_steps: int
    """Gradient steps of the whole run."""
    seconds: float
    """Time spent in gradient steps so far, evaluation left out."""
    scalars: dict[str, float]
    """TensorBoard tags and values: means over the steps since the last log, and validation."""


def train(model: VAE, images: Images, config: VAEConfig) -> Iterator[LogStep]:
    """Maximises the ELBO with Adam; yields at every log step, and is done when exhausted.

    Order, binarisation and noise come from one generator seeded by ``config.seed``, so that every
    norm sees the same images and the same noise in the same order.

    Args:
        model: trained in place, on the device it is on.
        images: the data set of ``config``.
        config: the run.

    Raises:
        NonFiniteError: a loss or a parameter was NaN or infinite at a log step.
        UsageError: a batch does not fit into the training set.
    """
    device = next(model.parameters()).device
    data = images.train.to(device)
    valid, scale = fixed_inputs(model.likelihood, images.valid, images.levels, seed=0)
    valid = valid.to(device) / scale
    generator = torch.Generator(device).manual_seed(config.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
    total_steps = config.total_steps(len(data))
    log_every = max(1, total_steps // config.n_logs)
    batches: list[Tensor] = []
    sums = torch.zeros(2, device=device)
    last_log, seconds = 0, 0.0

    model.train()
    start = time.perf_counter()
    for step in range(1, total_steps + 1):
        if not batches:
            order = torch.randperm(len(data), generator=generator, device=device)
            batches = [b for b in order.split(config.batch_size) if len(b) == config.batch_size]
        x = training_inputs(model.likelihood, data[batches.pop()], images.levels, generator)
        rate = config.learning_rate * SCHEDULES[config.schedule](step / total_steps)
        for group in optimizer.param_groups:
            group["lr"] = rate

        bound = elbo(model, x, generator)
        optimizer.zero_grad()
        (-bound.value.mean()).backward()
        optimizer.step()
        if NORMS[config.norm].projected:
            project_(model)
        sums += torch.stack([bound.reconstruction.detach().mean(), bound.kl.detach().mean()])

        if step % log_every == 0 or step == total_steps:
            means = (sums / (step - last_log)).tolist()
            seconds += time.perf_counter() - start
            scalars = {
                **bound_scalars(TRAIN_TAGS, *means),
                **validate(model, valid),
                **weight_lengths(model),
                tags.LEARNING_RATE: rate,
            }
            check_finite(scalars, model, f"after {step} gradient steps")
            yield LogStep(step, total_steps, seconds, scalars)
            sums.zero_()
            last_log, start = step, time.perf_counter()


def bound_scalars(
    names: tuple[str, str, str], reconstruction: float, kl: float
) -> dict[str, float]:
    """The bound and its two terms under their tags."""
    bound, first, second = names
    return {bound: reconstruction - kl, first: reconstruction, second: kl}


@torch.no_grad()
def validate(model: VAE, x: Tensor) -> dict[str, float]:
    """The bound on binary images in eval mode, with the same noise at every call."""
    generator = torch.Generator(x.device).manual_seed(0)
    with evaluating(model):
        bound = elbo(model, x, generator)
    reconstruction, kl = torch.stack([bound.reconstruction.mean(), bound.kl.mean()]).tolist()
    return bound_scalars(VALID_TAGS, reconstruction, kl)


def check_finite(scalars: dict[str, float], model: nn.Module, when: str) -> None:
    """Raises NonFiniteError that names the first bad scalar and the first bad parameter."""
    bad = [f"{tag} is {value}" for tag, value in scalars.items() if not math.isfinite(value)]
    if bad:
        broken = (name for name, p in model.named_parameters() if not p.isfinite().all())
        raise NonFiniteError(f"{bad[0]} {when}; first parameter not finite: {next(broken, 'none')}")
