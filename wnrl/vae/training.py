"""The training loop, which can be stopped and gone on with, and a training as a run."""

import copy
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from wnrl import tags
from wnrl.data import Images
from wnrl.diagnostics import to_floats
from wnrl.diagnostics.weights import weight_lengths
from wnrl.errors import NonFiniteError
from wnrl.nn import plain_parts
from wnrl.runs import EventFile, whole_file
from wnrl.vae import pictures
from wnrl.vae.averaging import Average
from wnrl.vae.config import SCHEDULES, VAEConfig
from wnrl.vae.construction import save_weights
from wnrl.vae.inputs import check_levels
from wnrl.vae.measure import Protocol, block_generator, nll
from wnrl.vae.model import VAE, Terms
from wnrl.vae.nonfinite import Witness
from wnrl.vae.objectives import Validation, kl_weight_at
from wnrl.vae.steps import GradientStep

COUNTERS = ("step", "last_log", "seconds", "names", "sums", "best")
N_PICTURES = 5  # how often pictures are logged over the run
CURVES = (tags.VAE_TRAIN_ELBO, tags.VAE_VALID_ELBO, tags.VAE_TRAIN_IWAE, tags.VAE_VALID_IWAE)
PARAMETERS = "the length of all parameters"


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
    """Maximise the objective of ``config``; yield at every log step, done when exhausted.

    See ``Trainer``, which can also be stopped, saved and gone on with.
    """
    yield from Trainer(model, images, config).run()


class Trainer:
    """A training that can stop after any step, and go on from its ``state``.

    Order, binarisation and noise come from one generator seeded by ``config.seed``, so that every
    norm sees the same images and the same noise in the same order.

    On a GPU a gradient step is a CUDA graph, but for log steps and where ``train_chunk`` is given.
    Nothing waits for the device between two log steps. A NaN is found at the next of them, which
    then does the steps since the last one again, looking for the tensor that had it first.

    Args:
        model: trained in place, on the device it is on.
        images: the data set of ``config``.
        config: the run.
        forward: called for ``model``'s terms in its place, such as its compiled ``forward``,
            without CUDA graphs of its own.

    Attributes:
        step: gradient steps done.
        total_steps: of the whole run.
        seconds: spent in gradient steps.
        good: the state at the last log step, where everything was finite.

    Raises:
        UsageError: A batch does not fit into the training set.
    """

    def __init__(
        self,
        model: VAE,
        images: Images,
        config: VAEConfig,
        forward: Callable[..., Terms] | None = None,
    ) -> None:
        check_levels(model.likelihood, images)
        self.model, self.config = model, config
        self.device = next(model.parameters()).device
        self.validation = Validation(model, images, config)
        self.generator = torch.Generator(self.device).manual_seed(config.seed)
        self.gradient_step = GradientStep(model, images, config, self.generator, forward)
        self.optimizer, self.batches = self.gradient_step.optimizer, self.gradient_step.batches
        self.steps_per_epoch = config.steps_per_epoch(len(images.train))
        self.total_steps = config.total_steps(len(images.train))
        self.log_every = max(1, self.total_steps // config.n_logs)
        horizon = config.ema_epochs * self.steps_per_epoch
        self.average = Average(model, horizon) if horizon else None
        self.step, self.last_log, self.seconds = 0, 0, 0.0
        self.names: list[str] = []
        self.sums: Tensor | None = None
        self.best: dict[str, Any] | None = None
        self.good = copy.deepcopy(self.state())
        self._recorded_step = self.gradient_step.replayed()

    def run(self, pause: Callable[[], bool | None] = lambda: False) -> Iterator[LogStep]:
        """Train to the end, or until ``pause`` says so.

        Args:
            pause: asked after every step.

        Raises:
            NonFiniteError: Something was NaN or infinite; the message names the first tensor, and
                the state is the last good one.
        """
        self.model.train()
        while self.step < self.total_steps:
            start = time.perf_counter()
            logs = (self.step + 1) % self.log_every == 0 or self.step + 1 == self.total_steps
            update = self._advance(measured=logs)
            means = self._means() if logs else {}
            self.seconds += time.perf_counter() - start
            if logs:
                yield self._log(means, update)
            if pause():
                break
        self.check()

    def _advance(self, witness: Witness | None = None, measured: bool = False) -> dict[str, Tensor]:
        """Do a gradient step; with a witness, on the model itself.

        Returns:
            If ``measured``, by tag: the length of the gradient before clipping, and the relative
            change of each weight.
        """
        config, rows = self.config, self.batches.next_rows()
        self.step += 1
        rate = config.learning_rate * SCHEDULES[config.schedule](self.step / self.total_steps)
        kl_weight = kl_weight_at(config, self.step - 1, self.steps_per_epoch)
        update: dict[str, Tensor] = {}
        if measured or witness is not None:
            means = self.gradient_step(rows, rate, kl_weight, witness, update if measured else None)
        else:
            means = self._recorded_step(rows, rate, kl_weight)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self.average is not None:
            self.average.update(self.model)
        self.sums = means if self.sums is None else self.sums + means
        self.names = self.gradient_step.names
        return update

    def _means(self) -> dict[str, Tensor]:
        """Return means since the last log step, still on the device."""
        if self.sums is None:
            return {}
        means = self.sums / (self.step - self.last_log)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # the time of a log step is that of its work
        return dict(zip(self.names, means.unbind(), strict=True))

    def _parameter_norm(self) -> Tensor:
        """Return what is finite if all parameters are; no loss has seen the last gradient yet."""
        return get_total_norm([p.detach() for p in self.gradient_step.parameters])

    def _log(self, means: dict[str, Tensor], update: dict[str, Tensor]) -> LogStep:
        with self.measured_weights():
            measured = self.validation.bounds()
        whole, lengths = self._parameter_norm(), weight_lengths(self.model)
        scalars = to_floats({**means, **measured, PARAMETERS: whole, **lengths, **update})
        scalars[tags.LEARNING_RATE] = self.optimizer.param_groups[0]["lr"]
        scalars |= self.validation.bits(scalars)
        self._check(scalars)
        del scalars[PARAMETERS]
        self.sums, self.last_log = None, self.step
        bound = scalars[self.validation.criterion]
        if self.config.select == "best" and (self.best is None or bound > self.best["bound"]):
            self.best = {"step": self.step, "bound": bound, "weights": self._weights()}
        self.good = copy.deepcopy(self.state())
        return LogStep(self.step, self.total_steps, self.seconds, scalars)

    def measured_weights(self) -> AbstractContextManager[None]:
        """Inside, the model has the averaged weights, if there are any."""
        return self.average.in_place(self.model) if self.average else nullcontext()

    def selected(self) -> tuple[int, dict[str, dict[str, Tensor]]]:
        """Return the step whose weights are measured, and state dicts: ``raw`` and ``averaged``."""
        if self.best is not None:
            return self.best["step"], self.best["weights"]
        return self.step, self._weights()

    def _weights(self) -> dict[str, dict[str, Tensor]]:
        kinds = {"raw": on_cpu(self.model)}
        if self.average is not None:
            with self.measured_weights():
                kinds["averaged"] = on_cpu(self.model)
        return kinds

    def state(self) -> dict[str, Any]:
        """Return what ``restore`` takes: tensors, numbers and containers of them."""
        return {
            **{name: getattr(self, name) for name in COUNTERS},
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "generator": self.generator.get_state(),
            "batches": list(self.batches.left),
        }

    def restore(self, state: Mapping[str, Any]) -> str:
        """Go back, or on, to where ``state`` was taken; return what is to be told of it."""
        state = copy.deepcopy(dict(state))
        for name in COUNTERS:
            setattr(self, name, state[name])
        self.model.load_state_dict(state["model"])
        moments = {**self.optimizer.state_dict(), "state": state["optimizer"]["state"]}
        self.optimizer.load_state_dict(moments)
        # A recording has the moments where they were.
        self._recorded_step = self.gradient_step.replayed()
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        goes_on = state["generator"].shape == self.generator.get_state().shape
        if goes_on:
            self.generator.set_state(state["generator"])
        else:
            other = block_generator(self.device, self.config.seed, self.step)
            self.generator.set_state(other.get_state())
        self.batches.left = [rows.to(self.device) for rows in state["batches"]]
        if self.sums is not None:
            self.sums = self.sums.to(self.device)
        self.good = copy.deepcopy(self.state())
        return "" if goes_on else "with other noise, since it was on another device"

    def check(self) -> None:
        """Raise NonFiniteError, as ``run`` does, for what is not finite since the last log step."""
        if self.step > self.last_log:
            self._check(to_floats({**self._means(), PARAMETERS: self._parameter_norm()}))

    def _check(self, scalars: Mapping[str, float]) -> None:
        """Raise NonFiniteError, after going back to the last good state, if one is not finite."""
        for tag, value in scalars.items():
            if not math.isfinite(value):
                told = f"{tag} is {value} after {self.step} gradient steps; first tensor not finite"
                raise NonFiniteError(
                    f"{told}: {self._first_bad()}; the last good state is that of step {self.step}"
                )

    def _first_bad(self) -> str:
        """Do the steps since the last good state again, and go back to it."""
        failed, witness = self.step, Witness(self.model)
        self.restore(self.good)
        witness.look_at_parameters()
        name = witness.first()
        while name is None and self.step < failed:
            with witness.watching():
                self._advance(witness)
            witness.look_at_parameters()
            name = witness.first()
        where = f"step {self.step}"
        if name is None:
            with self.measured_weights(), witness.watching():
                self.validation.bounds()
            name, where = witness.first(), f"in validation after step {self.step}"
        self.restore(self.good)
        return f"{name}, {where}" if name else "none found again"


def on_cpu(model: VAE) -> dict[str, Tensor]:
    """Return a copy of a model's state."""
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


Curve = dict[str, list[float]]
"""``steps``, and the values of each tag of ``CURVES`` at these."""


def add_point(
    curve: Curve, events: EventFile, step: int, total_steps: int, scalars: Mapping[str, float]
) -> bool:
    """Add a point to a curve and to its event file; return True where pictures are due."""
    steps = curve["steps"]
    shown = int(steps[-1]) * N_PICTURES // total_steps if steps else 0
    steps.append(step)
    for tag, value in scalars.items():
        events.add_scalar(tag, value, step)
        if tag in CURVES:
            curve.setdefault(tag, []).append(value)
    return step * N_PICTURES // total_steps > shown


def add_pictures(events: EventFile, step: int, model: VAE, images: Images) -> None:
    """Add all pictures of a model to an event file."""
    for tag, picture in pictures.all_pictures(model, images).items():
        events.add_image(tag, picture.numpy(), step)


def measure(
    model: VAE,
    images: Images,
    config: VAEConfig,
    selected: tuple[int, Mapping[str, Mapping[str, Tensor]]],
    folder: Path,
) -> dict[str, Any]:
    """Measure chosen weights on the test split and write what belongs to them into a run folder.

    Args:
        model: which the weights are put into.
        images: the data set.
        config: the run.
        selected: as ``Trainer.selected`` returns it.
        folder: the run's.

    Returns:
        What the result has of them.

    Raises:
        NonFiniteError: log p(x) of an image is NaN or infinite.
    """
    step, kinds = selected
    reported = "averaged" if config.ema_epochs else "raw"
    model.load_state_dict(kinds[reported])
    protocol = Protocol(config.dataset, n_samples=config.n_samples, weights=reported)
    print(f"measuring: K = {config.n_samples}, {len(images.test)} images", file=sys.stderr)
    measured = nll(model, images, protocol)
    save_weights(reported, kinds, folder)
    with whole_file(folder / "per_image_nll.npy") as file:
        np.save(file, measured.per_image_nll.numpy())
    pictures.save(pictures.samples(model), folder / "samples.png")
    return measured.numbers() | {"selected": f"{config.select}: step {step}"}


class VAEWork:
    """A VAE's training as ``wnrl.runs`` carries it out, with the measurement of its likelihood.

    Args:
        trainer: the training.
        images: its data set.
        machine: ``device`` and ``threads`` as they were settled.
    """

    metrics: Mapping[str, str] = {
        tags.VAE_NLL: "nll",
        tags.VAE_TEST_ELBO: "elbo",
        tags.STEPS_PER_SECOND: "steps_per_second",
    }

    def __init__(self, trainer: Trainer, images: Images, machine: Mapping[str, Any]) -> None:
        self.trainer, self.config, self.images = trainer, trainer.config, images
        self.machine, self.total_steps = machine, trainer.total_steps
        self.identity: Mapping[str, Any] = {"task": self.config.dataset, "algo": self.config.model}
        self.curve: Curve = {"steps": []}

    @property
    def step(self) -> int:
        """Gradient steps done."""
        return self.trainer.step

    def state(self) -> dict[str, Any]:
        """Return what ``restore`` takes."""
        self.trainer.check()
        return {"trainer": self.trainer.state(), "curve": self.curve}

    def restore(self, state: Mapping[str, Any]) -> str:
        """Go to where ``state`` was taken; return what is to be told of it."""
        self.curve = state["curve"]
        return self.trainer.restore(state["trainer"])

    def train(self, events: EventFile, between: Callable[[], None]) -> None:
        """Train to the last step, with logs, calling ``between`` after every one."""
        for log in self.trainer.run(between):
            if add_point(self.curve, events, log.step, log.total_steps, log.scalars):
                with self.trainer.measured_weights():
                    add_pictures(events, log.step, self.trainer.model, self.images)

    def report(self) -> dict[str, Any]:
        """Return what the result has of training."""
        steps, seconds = self.step, self.trainer.seconds
        rate = steps / seconds if seconds else 0.0
        return {
            "steps": steps,
            "steps_per_second": rate,
            "images_per_second": rate * self.config.batch_size,
            "device": self.machine["device"],
            "parameters": sum(p.numel() for p in self.trainer.model.parameters()),
            "plain_parts": plain_parts(self.trainer.model, self.config.norm),
            "curve": self.curve,
        }

    def measure(self, folder: Path) -> dict[str, Any]:
        """Measure the chosen weights on the test split and write what belongs to them."""
        return measure(
            self.trainer.model, self.images, self.config, self.trainer.selected(), folder
        )
