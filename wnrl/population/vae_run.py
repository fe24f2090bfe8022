"""A cohort of VAEs as a ``Batch`` of ``wnrl.runs``, and trials of studies as such cohorts."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from wnrl import tags
from wnrl.diagnostics import to_floats
from wnrl.errors import NonFiniteError, UsageError
from wnrl.population.memory import bytes_of_vae, check_memory, members_that_fit
from wnrl.population.vae import Update, VAECohort, check
from wnrl.runs import Batching, EventFile, Options, carry_out_batch, resolve_device
from wnrl.vae import run as alone
from wnrl.vae.config import SCHEDULES
from wnrl.vae.training import PARAMETERS, on_cpu


class VAECohortRun:
    """A cohort of VAEs that is validated while it trains.

    Args:
        cohort: Members, not yet trained.
        machine: ``device`` and ``threads`` as they were settled.
    """

    def __init__(self, cohort: VAECohort, machine: Mapping[str, Any]) -> None:
        self.cohort, self.machine = cohort, machine
        self.members = [VAECohortMember(self, place) for place in range(len(cohort.members))]
        self.last_log, self.seconds = 0, 0.0

    def train(self, events: Sequence[EventFile], between: Callable[[], None]) -> None:
        """Train all members to the last step, as ``wnrl.runs.Batch`` has it."""
        cohort = self.cohort
        while cohort.step < cohort.total_steps:
            between()
            began = time.perf_counter()
            update = cohort.iterate(measured=cohort.logs_at(cohort.step + 1))
            if update and cohort.params.is_cuda:
                torch.cuda.synchronize(cohort.params.device)
            self.seconds += time.perf_counter() - began
            if update:
                self._log(events, update)
        between()

    def _log(self, events: Sequence[EventFile], update: Update) -> None:
        """Validate all members, and add a point to the curves of those that are finite."""
        cohort = self.cohort
        assert cohort.sums is not None
        means = cohort.sums / (cohort.step - self.last_log)
        scalars = {
            **dict(zip(cohort.names, means.unbind(1), strict=True)),
            **cohort.validate(),
            tags.VAE_TRAIN_GRADIENT_NORM: torch.linalg.vector_norm(update.gradients, dim=1),
            PARAMETERS: torch.linalg.vector_norm(cohort.params, dim=1),
        }
        cohort.sums, self.last_log = None, cohort.step
        rows = torch.stack([*scalars.values()], 1).tolist()  # the device is waited for once
        for member, file, row in zip(self.members, events, rows, strict=True):
            if member.add_point(file, dict(zip(scalars, row, strict=True))):
                for tag, value in to_floats(cohort.measures(member.place, update)).items():
                    if tag not in scalars:
                        file.add_scalar(tag, value, cohort.step)
                alone.add_pictures(file, cohort.step, cohort.vae(member.place), cohort.images)


class VAECohortMember:
    """A member of a cohort as a ``Member`` of ``wnrl.runs``."""

    metrics = alone.VAEWork.metrics

    def __init__(self, run: VAECohortRun, place: int) -> None:
        self.run, self.place, self.rows = run, place, slice(place, place + 1)
        self.machine, self.total_steps = run.machine, run.cohort.total_steps
        self.config = run.cohort.members[place]
        self.identity: Mapping[str, Any] = {"task": self.config.dataset, "algo": self.config.model}
        self.curve: alone.Curve = {"steps": []}
        self.failure = ""

    @property
    def step(self) -> int:
        """Gradient steps done."""
        return self.run.cohort.step

    def add_point(self, events: EventFile, scalars: dict[str, float]) -> bool:
        """Add a point to the curve, unless something is not finite; return True for pictures."""
        cohort, step = self.run.cohort, self.step
        for tag, value in scalars.items():
            if not (self.failure or math.isfinite(value)):
                self.failure = f"{tag} is {value} after {step} gradient steps"
        if self.failure:
            return False
        del scalars[PARAMETERS]
        factor = SCHEDULES[self.config.schedule](step / self.total_steps)
        scalars[tags.LEARNING_RATE] = self.config.learning_rate * factor
        scalars |= cohort.validation.bits(scalars)
        return alone.add_point(self.curve, events, step, self.total_steps, scalars)

    def state(self) -> dict[str, Any]:
        """Return everything that ``restore`` needs."""
        self._check_finite()
        run = self.run
        return {
            "networks": {"cohort": run.cohort.state(self.rows)},
            "step": self.step,
            "last_log": run.last_log,
            "curve": self.curve,
            "all_images_crc32": run.cohort.images.crc32,
            "seconds": run.seconds / len(run.members),  # they may go on in other company
        }

    def restore(self, state: Mapping[str, Any]) -> str:
        """Go to where ``state`` was taken, which was at one step for all members."""
        run = self.run
        alone.check_unchanged(run.cohort.images, state)
        run.cohort.restore(state["networks"]["cohort"], self.rows)
        run.last_log, run.seconds = state["last_log"], state["seconds"] * len(run.members)
        self.curve = state["curve"]
        return ""

    def report(self) -> dict[str, Any]:
        """Return what the result has of training.

        Steps and images a second are those of all members of the batch, ``batch_members``,
        together: what one process trains in a second.
        """
        run, n_members = self.run, len(self.run.members)
        n_steps, model = n_members * self.step, run.cohort.vae(self.place)
        return alone.report(self, model, n_steps, run.seconds) | {"batch_members": n_members}

    def measure(self, folder: Path) -> dict[str, Any]:
        """Measure the last weights on the test split and write what belongs to them."""
        self._check_finite()
        cohort = self.run.cohort
        model = cohort.vae(self.place)
        weights = {"raw": on_cpu(model)}
        return alone.measure(model, cohort.images, self.config, self.step, weights, folder)

    def _check_finite(self) -> None:
        if self.failure:
            raise NonFiniteError(self.failure)
        if not self.run.cohort.params[self.place].isfinite().all():
            raise NonFiniteError(f"a parameter is NaN or infinite after {self.step} gradient steps")


def batching(trial: Any) -> Batching:
    """Return how a VAE's trial can be trained together with others."""
    config, machine, data_dir = alone.values_of(trial)
    device = resolve_device(machine.device)
    try:
        check(config)
        if machine.compile:
            raise UsageError("VAEs in a population have compile False alone, got True")
        n_train = alone.n_train(config.dataset, data_dir)
        each = bytes_of_vae(config, alone.built(config), n_train, device)
        check_memory(1, each, 1, device)
    except UsageError as error:
        return Batching(refusal=str(error))
    if device.type == "cpu":
        return Batching(pays=False)
    return Batching(members=members_that_fit(each, None, device))


def train_batch(
    trials: Sequence[Any], folders: Sequence[Path], progress: Callable[[float], None]
) -> list[dict[str, Any]]:
    """Train the VAEs of trials with one ``batch_key`` as a cohort, or go on with them."""
    configs = [alone.values_of(trial)[0] for trial in trials]
    _, machine, data_dir = alone.values_of(trials[0])
    images = alone.images_of(configs[0], data_dir)
    device, threads = resolve_device(machine.device), machine.threads or 1
    torch.set_num_threads(threads)

    def build_run(places: Sequence[int]) -> VAECohortRun:
        cohort = VAECohort(images, [configs[place] for place in places], device=device)
        return VAECohortRun(cohort, {"device": str(device), "threads": threads})

    settings = [alone.settings_of(config, machine) for config in configs]
    options = Options(resume=True, keep_checkpoint=False)
    how = alone.meaning_of(images), alone.FILES, options, progress
    return carry_out_batch(folders, settings, build_run, *how)
