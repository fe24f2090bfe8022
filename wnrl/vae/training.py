"""The training loop, which can be stopped and gone on with."""

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, get_total_norm

from wnrl import tags
from wnrl.data import Images
from wnrl.diagnostics import effective_weights, gradient_norms, to_floats, weight_lengths
from wnrl.errors import NonFiniteError
from wnrl.graphs import Replayed
from wnrl.norms import NORMS
from wnrl.vae.averaging import Average
from wnrl.vae.config import SCHEDULES, VAEConfig
from wnrl.vae.inputs import Batches, check_levels
from wnrl.vae.measure import block_generator
from wnrl.vae.model import VAE, Terms
from wnrl.vae.nonfinite import Witness
from wnrl.vae.objectives import Validation, loss, measures_of, share_of_beta
from wnrl.vae.pixels import trusted

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": partial(torch.optim.Adam, fused=True),
    "adamax": partial(torch.optim.Adamax, foreach=True),
}
COUNTERS = ("step", "last_log", "seconds", "names", "sums")
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
        self.model, self.config, self.forward = model, config, forward or model
        self.parameters = list(model.parameters())  # asked of the model, they take a while
        self.device = self.parameters[0].device
        self.validation = Validation(model, images, config)
        self.generator = torch.Generator(self.device).manual_seed(config.seed)
        self.batches = Batches(images, model.likelihood, config.batch_size, self.generator)
        self.optimizer = OPTIMIZERS[config.optimizer](
            self.parameters, config.learning_rate, capturable=self.device.type == "cuda"
        )
        self.precision = torch.autocast(self.device.type, torch.bfloat16, enabled=config.amp)
        self.steps_per_epoch = config.steps_per_epoch(len(images.train))
        self.total_steps = config.total_steps(len(images.train))
        self.log_every = max(1, self.total_steps // config.n_logs)
        horizon = config.ema_epochs * self.steps_per_epoch
        self.average = Average(model, horizon) if horizon else None
        self.step, self.last_log, self.seconds = 0, 0, 0.0
        self.names: list[str] = []
        self.sums: Tensor | None = None
        self.good = self.state()
        self._recorded_step = self._replayed()

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
            If ``measured`` or with a witness, by tag: the length of the gradient before clipping,
            and the relative change of each weight.
        """
        config, rows = self.config, self.batches.next_rows()
        self.step += 1
        rate = config.learning_rate * SCHEDULES[config.schedule](self.step / self.total_steps)
        kl_weight = config.beta * share_of_beta(config, self.step - 1, self.steps_per_epoch)
        update: dict[str, Tensor] = {}
        if measured or witness is not None:
            means = self._gradient_step(rows, rate, kl_weight, update, witness)
        else:
            means = self._recorded_step(rows, rate, kl_weight)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self.average is not None:
            self.average.update(self.model)
        self.sums = means if self.sums is None else self.sums + means
        return update

    def _replayed(self) -> Callable[..., Tensor]:
        """Return the gradient step to be recorded, or as it is where nothing can be."""
        if self.device.type != "cuda" or self.config.train_chunk is not None:
            return self._gradient_step
        return Replayed(self._gradient_step, self.device, [self.generator])

    def _gradient_step(
        self,
        rows: Tensor,
        rate: float | Tensor,
        kl_weight: float | Tensor,
        update: dict[str, Tensor] | None = None,
        witness: Witness | None = None,
    ) -> Tensor:
        """Do a gradient step.

        Args:
            rows: which images, ``(B,)``.
            rate: of learning.
            kl_weight: as ``loss`` has it.
            update: where to write, by tag, the length of the gradient before clipping and the
                relative change of each weight.
            witness: looks at each tensor of the step.

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
        if update is not None:
            norms, before = gradient_norms(self.model), effective_weights(self.model)
        if config.max_grad_norm is not None:
            clip_grad_norm_(self.parameters, config.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = rate.float() if isinstance(rate, Tensor) else rate
        self.optimizer.step()
        if (after_step := NORMS[config.norm].after_step) is not None:
            after_step(self.model)
        if update is not None:
            update |= measures_of(norms, before, effective_weights(self.model))
        self.names = list(means)
        return torch.stack([value.detach() for value in means.values()])

    def _means(self) -> dict[str, Tensor]:
        """Return means since the last log step, still on the device."""
        assert self.sums is not None
        means = self.sums / (self.step - self.last_log)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # the time of a log step is that of its work
        return dict(zip(self.names, means.unbind(), strict=True))

    def _parameter_norm(self) -> Tensor:
        """Return what is finite if all parameters are; no loss has seen the last gradient yet."""
        return get_total_norm([p.detach() for p in self.parameters])

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
        self.good = self.state()
        return LogStep(self.step, self.total_steps, self.seconds, scalars)

    def measured_weights(self) -> AbstractContextManager[None]:
        """Inside, the model has the averaged weights, if there are any."""
        return self.average.in_place(self.model) if self.average else nullcontext()

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """Return state dicts of the model: ``raw`` and, if there are any, ``averaged`` weights."""
        kinds = {"raw": on_cpu(self.model)}
        if self.average is not None:
            with self.measured_weights():
                kinds["averaged"] = on_cpu(self.model)
        return kinds

    def state(self) -> dict[str, Any]:
        """Return what ``restore`` takes: copies of tensors, numbers and containers of them."""
        state = {
            **{name: getattr(self, name) for name in COUNTERS},
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "generator": self.generator.get_state(),
            "batches": self.batches.left,
        }
        return copy.deepcopy(state)

    def restore(self, state: Mapping[str, Any]) -> str:
        """Go back, or on, to where ``state`` was taken; return what is to be told of it."""
        state = copy.deepcopy(dict(state))
        for name in COUNTERS:
            setattr(self, name, state[name])
        self.model.load_state_dict(state["model"])
        moments = {**self.optimizer.state_dict(), "state": state["optimizer"]["state"]}
        self.optimizer.load_state_dict(moments)
        self._recorded_step = self._replayed()  # a recording has the moments where they were
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        other = block_generator(self.device, self.config.seed, self.step).get_state()
        goes_on = state["generator"].shape == other.shape
        self.generator.set_state(state["generator"] if goes_on else other)
        self.batches.left = [rows.to(self.device) for rows in state["batches"]]
        if self.sums is not None:
            self.sums = self.sums.to(self.device)
        self.good = self.state()
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
        name = witness.first()
        while name is None and self.step < failed:
            with witness.watching():
                self._advance(witness)
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
