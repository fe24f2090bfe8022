"""One run of a VAE in its folder: training with logs and checkpoints, then the measurement."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.tensorboard.writer import SummaryWriter

from scripts._vae_folder import Folder, tell
from wnrl import data, tags, vae
from wnrl.compiling import compiled
from wnrl.errors import NonFiniteError
from wnrl.nn import plain_parts
from wnrl.runs import Run
from wnrl.runs.interrupts import Interrupts, Stopped
from wnrl.vae import pictures
from wnrl.vae.checkpoint import CHECKPOINT, go_on, put_back, write_checkpoint
from wnrl.vae.construction import save_weights
from wnrl.vae.files import whole_file
from wnrl.vae.training import LogStep, Trainer

N_PICTURES = 5  # how often pictures are logged over the run
CURVES = (tags.VAE_TRAIN_ELBO, tags.VAE_VALID_ELBO, tags.VAE_TRAIN_IWAE, tags.VAE_VALID_IWAE)
METRICS = (
    (tags.VAE_NLL, "nll"),
    (tags.VAE_TEST_ELBO, "elbo"),
    (tags.STEPS_PER_SECOND, "steps_per_second"),
)
Progress = Callable[[float], None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run does beside its configuration."""

    device: torch.device
    compile: bool
    checkpoint_minutes: float
    keep_checkpoint: bool


class Session:
    """A training in its run folder.

    Args:
        config: the run.
        plan: where and how.
        images: the data set.
        folder: what was there.
        started: when the program began, by ``time.perf_counter``.
    """

    def __init__(
        self,
        config: vae.VAEConfig,
        plan: Plan,
        images: data.Images,
        folder: Folder,
        started: float,
    ) -> None:
        self.config, self.plan, self.images = config, plan, images
        state, run = folder.state, folder.run
        model = vae.build(config, None if state else images).to(plan.device)
        self.trainer = Trainer(model, images, config, self._forward(model))
        earlier: dict[str, Any] = {}
        if state is not None:
            go_on(self.trainer, state)
            earlier = state["extra"]
        self.curve: dict[str, list[float]] = earlier.get("curve", {"steps": []})
        self.started = started - earlier.get("wall_time", 0.0)
        self.path = run.path
        if state is not None:
            run.begin()
            put_back(run.path, state)
        self.writer = SummaryWriter(str(run.path))

    def _forward(self, model: vae.VAE) -> Callable[..., Any] | None:
        """Return what is called in the place of the model."""
        if not self.plan.compile:
            return None
        graphs = self.plan.device.type == "cuda" and self.config.train_chunk is None
        return compiled(model.forward, f"model {self.config.model!r}", graphs=graphs)

    @property
    def wall_time(self) -> float:
        """Seconds since the run began, without those in which it was stopped."""
        return time.perf_counter() - self.started

    def train(self, progress: Progress) -> dict[str, Any]:
        """Trains to the end and returns what became of it.

        Raises:
            Stopped: a signal came; the checkpoint is written.
        """
        trainer, outcome = self.trainer, {"status": "finished"}
        minutes = self.plan.checkpoint_minutes
        due = time.monotonic() + 60 * minutes
        with Interrupts() as interrupts:

            def pause() -> bool:
                return interrupts.received is not None or time.monotonic() >= due

            try:
                while trainer.step < trainer.total_steps:
                    for log in trainer.run(pause):
                        self._log(log)
                        progress(log.step / log.total_steps)
                    if trainer.step == trainer.total_steps:
                        break
                    saved = self._save()
                    due = time.monotonic() + 60 * minutes
                    if interrupts.received is not None:
                        where = f"stopped at step {trainer.step} of {trainer.total_steps}"
                        how = "--resume goes on from here" if saved else "not saved"
                        raise Stopped(interrupts.received, f"{where}; {how}")
            except NonFiniteError as error:
                outcome = {"status": "failed", "reason": str(error)}
            self._save()
        steps, seconds = trainer.step, trainer.seconds
        rate = steps / seconds if seconds else 0.0
        return outcome | {
            "steps": steps,
            "steps_per_second": rate,
            "images_per_second": rate * self.config.batch_size,
            "device": str(self.plan.device),
            "plain_parts": plain_parts(trainer.model, self.config.norm),
            "curve": self.curve,
        }

    def _log(self, log: LogStep) -> None:
        steps = self.curve["steps"]
        shown = int(steps[-1]) * N_PICTURES // log.total_steps if steps else 0
        steps.append(log.step)
        for tag in CURVES:
            if tag in log.scalars:
                self.curve.setdefault(tag, []).append(log.scalars[tag])
        for tag, value in log.scalars.items():
            self.writer.add_scalar(tag, value, log.step)
        if log.step * N_PICTURES // log.total_steps > shown:
            with self.trainer.measured_weights():
                shots = pictures.all_pictures(self.trainer.model, self.images)
            for tag, picture in shots.items():
                self.writer.add_image(tag, picture, log.step)

    def _save(self) -> bool:
        """Writes a checkpoint; one that cannot be written leaves the one before."""
        self.writer.flush()
        extra = {"curve": self.curve, "wall_time": self.wall_time}
        try:
            write_checkpoint(self.path, self.trainer, extra)
        except OSError as error:
            tell(f"no checkpoint at step {self.trainer.step}: {error}")
            return False
        return True

    def measure(self) -> dict[str, Any]:
        """Measures the chosen weights on the test split and writes what belongs to them."""
        config, model = self.config, self.trainer.model
        step, weights = self.trainer.selected()
        model.load_state_dict(weights[config.weights])
        protocol = vae.Protocol(config.dataset, n_samples=config.n_samples, weights=config.weights)
        tell(f"measuring: K = {config.n_samples}, {len(self.images.test)} test images")
        try:
            measured = vae.nll(model, self.images, protocol)
        except NonFiniteError as error:
            return {"status": "failed", "reason": f"the NLL of the test split: {error}"}
        save_weights(weights, config.weights, self.path)
        with whole_file(self.path / "per_image_nll.npy") as file:
            np.save(file, measured.per_image_nll.numpy())
        with whole_file(self.path / "samples.png") as file:
            picture = pictures.to_pixels(pictures.samples(model))
            Image.fromarray(picture).save(file, "PNG")
        return {
            "nll": measured.nll,
            "elbo": measured.elbo,
            "nll_standard_error": measured.standard_error,
            "bits_per_dim": measured.bits_per_dim,
            "active_units": measured.active_units,
            "latent_units": measured.latent_units,
            "selected": f"{config.select}: step {step}",
            "protocol": measured.record(),
        }

    def close(self, run: Run, result: dict[str, Any]) -> None:
        """Writes the row of TensorBoard's HParams tab and the result."""
        metrics = {tag: result[key] for tag, key in METRICS if key in result}
        row = {"task": self.config.dataset, "algo": self.config.model, **run.config}
        tags.write_hparams(self.writer, row, metrics, result["steps"])
        self.writer.close()
        run.write_result(result)
        if not self.plan.keep_checkpoint and result["status"] == "finished":
            (run.path / CHECKPOINT).unlink(missing_ok=True)
