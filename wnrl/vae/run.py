"""The runner of VAEs: from settings to a finished run folder."""

import json
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wnrl import data, tags
from wnrl.compiling import compiled
from wnrl.data import Images
from wnrl.errors import UsageError
from wnrl.limits import Limited, Threads
from wnrl.nn import plain_parts
from wnrl.runs import EventFile, whole_file
from wnrl.runs.machine import resolve_device, seed_everything
from wnrl.runs.session import AS_USUAL, Meaning, Options, carry_out
from wnrl.vae import pictures
from wnrl.vae.config import FORMER, VAEConfig
from wnrl.vae.construction import MODEL, build, save_weights
from wnrl.vae.measure import Protocol, nll
from wnrl.vae.model import VAE
from wnrl.vae.presets import USUAL, preset
from wnrl.vae.training import Trainer

BATCHES = "wnrl.population.vae_run"
"""The module that trains these runs as one batch."""
FILES = (MODEL, "samples.png", "per_image_nll.npy")
"""What belongs to a trained model."""
N_PICTURES = 5  # how often pictures are logged over the run
CURVES = (tags.VAE_TRAIN_ELBO, tags.VAE_VALID_ELBO, tags.VAE_TRAIN_IWAE, tags.VAE_VALID_IWAE)


@dataclass(frozen=True)
class Machine(Limited):
    """Where a run is done, which is in its ``config.json`` too."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:<k>."""
    threads: Threads | None = None
    """CPU threads of torch; 1 if not given, since more rarely pay for small networks."""
    compile: bool = False
    """Compile the model for training."""


def train_in(
    folder: Path,
    config: VAEConfig,
    machine: Machine,
    data_dir: Path | None = None,
    options: Options = AS_USUAL,
    progress: Callable[[float], None] = lambda fraction: None,
    accepted: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Do a run, go on with one, or return the result of one that is finished.

    Args:
        folder: the run's own.
        config: the run.
        machine: where it is done.
        data_dir: the folder with the files of the data set.
        options: how it is carried out.
        progress: called with the share that is done.
        accepted: called once, when nothing can be refused any more.

    Returns:
        The entries of ``result.json``. ``nll`` (positive, from K importance samples) and ``elbo``
        (negative) are means in nats an image over the test split; ``protocol`` says how they were
        measured, and ``selected`` of which step. ``steps_per_second`` are gradient steps a second
        without evaluation; ``wall_time`` is everything, earlier parts of a resumed run included,
        in seconds. Where something was not finite, ``status`` is ``failed``, with its ``reason``,
        and there is no ``nll``; the last good state is in the checkpoint.

    Raises:
        UsageError: The run cannot be done; nothing was written.
        Stopped: A signal came; a checkpoint was written.
    """
    wanted = settings_of(config, machine)
    images = images_of(config, data_dir)

    def build_work() -> VAEWork:
        device, threads = resolve_device(machine.device), machine.threads or 1
        torch.set_num_threads(threads)
        seed_everything(config.seed)
        model, forward = build(config, images).to(device), None
        if machine.compile:
            forward = compiled(model.forward, f"model {config.model!r}")
        trainer = Trainer(model, images, config, forward)
        return VAEWork(trainer, images, {"device": str(device), "threads": threads})

    meaning = meaning_of(images)
    return carry_out(folder, wanted, build_work, meaning, FILES, options, progress, accepted)


def images_of(config: VAEConfig, data_dir: Path | None) -> Images:
    """Return the data set of a run.

    Raises:
        UsageError: It cannot be had, or is too small for the run.
    """
    images = data.load(config.dataset, data_dir)
    if (n_test := len(images.part("test"))) < 2:
        raise UsageError(
            f"dataset {config.dataset!r} must have two images or more for testing, of which "
            f"likelihoods have a standard error, got {n_test}"
        )
    config.total_steps(len(images.train))
    return images


def check_unchanged(images: Images, state: Mapping[str, Any]) -> None:
    """Raise UsageError if ``state`` is of other images; that of earlier runs is of any."""
    if state.get("all_images_crc32", images.crc32) != images.crc32:
        raise UsageError(f"dataset {images.name!r} has changed since the run began")


def meaning_of(images: Images) -> Meaning:
    """Return what settings of runs on a data set say to the run stack."""

    def steps(settings: Mapping[str, Any]) -> int:
        return VAEConfig.from_json(settings).total_steps(len(images.train))

    return Meaning(("epochs", "n_steps"), steps, defaults)


def built(config: VAEConfig) -> VAE:
    """Return a model to look at, the same for all seeds and rates: a study asks for many of them.

    Raises:
        UsageError: The model cannot be built.
    """
    shared = {k: v for k, v in config.to_json().items() if k not in VAEConfig.members}
    return _built(json.dumps(shared))


@lru_cache(maxsize=64)
def _built(config: str) -> VAE:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they come when the model is built for the run
        return build(VAEConfig.from_json(json.loads(config)))


@cache
def n_train(dataset: str, data_dir: Path | None) -> int:
    """Return how many training images a data set has; it is fetched if it is not there yet."""
    return len(data.load(dataset, data_dir).train)


def settings_of(config: VAEConfig, machine: Machine) -> dict[str, Any]:
    """Return every value that decides what a run does.

    Raises:
        UsageError: The model cannot be built, or not on this machine.
    """
    if machine.compile and config.objective == "dreg":
        raise UsageError("compile is not for objective 'dreg', which takes the model apart")
    device = resolve_device(machine.device)
    if config.amp and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UsageError(f"amp needs bfloat16, which {device} has not")
    built(config)
    named = {} if machine.device == "auto" else {"device": str(device)}
    return {**config.to_json(), **asdict(machine), **named}


def defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what each setting of a run, with or without a preset, is where nothing is said.

    Former settings stand beside them, with what every run has now.
    """
    config = VAEConfig(settings["model"], settings["dataset"])
    return {**config.to_json(), **asdict(Machine()), **FORMER}


def settings(trial: Any) -> dict[str, Any]:
    """Return what ``config.json`` of a trial's run will hold; see ``train``.

    Raises:
        UsageError: The run cannot be done, or there are no images for it.
    """
    config, machine, data_dir = values_of(trial)
    n_train(config.dataset, data_dir)
    return settings_of(config, machine)


def train(
    trial: Any, folder: Path, progress: Callable[[float], None] = lambda fraction: None
) -> dict[str, Any]:
    """Do the run of a trial, or go on with it, as a study's runner.

    Args:
        trial: ``task.algo`` is a model and ``task.name`` a data set; ``settings`` are of
            ``VAEConfig`` and ``Machine``, with ``preset`` and ``data_dir``.
        folder: the run's own.
        progress: called with the share that is done.

    Returns:
        What ``train_in`` returns.

    Raises:
        UsageError: The run cannot be done; nothing was written.
    """
    config, machine, data_dir = values_of(trial)
    options = Options(resume=True, keep_checkpoint=False)
    return train_in(folder, config, machine, data_dir, options, progress)


def values_of(trial: Any) -> tuple[VAEConfig, Machine, Path | None]:
    """Return the run of a trial, where it is done, and the folder with the files of its data."""
    asked = dict(trial.settings)
    names = asked.keys() & {"device", "threads", "compile"}
    machine = Machine(**{name: asked.pop(name) for name in names})
    data_dir, variant = asked.pop("data_dir", None), asked.pop("preset", USUAL)
    norm = {"norm": trial.arm.norm, "norm_kwargs": dict(trial.norm_kwargs)}
    config = preset(trial.task.algo, trial.task.name, variant, **asked, **norm, seed=trial.seed)
    return config, machine, None if data_dir is None else Path(data_dir)


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


def report(work: Any, model: VAE, n_steps: int, seconds: float) -> dict[str, Any]:
    """Return what the result of a run has of training.

    Args:
        work: the run, with ``step``, ``config``, ``machine`` and ``curve``.
        model: its own.
        n_steps: gradient steps that were done, those of runs that were trained with it too.
        seconds: the time they took.
    """
    rate = n_steps / seconds if seconds else 0.0
    return {
        "steps": work.step,
        "steps_per_second": rate,
        "images_per_second": rate * work.config.batch_size,
        "device": work.machine["device"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "plain_parts": plain_parts(model, work.config.norm),
        "curve": work.curve,
    }


def measure(
    model: VAE,
    images: Images,
    config: VAEConfig,
    step: int,
    weights: Mapping[str, Mapping[str, Tensor]],
    folder: Path,
) -> dict[str, Any]:
    """Measure weights on the test split and write what belongs to them into a run folder.

    Args:
        model: which the weights are put into.
        images: the data set.
        config: the run.
        step: after how many gradient steps.
        weights: as ``Trainer.weights`` returns them.
        folder: the run's.

    Returns:
        What the result has of them.

    Raises:
        NonFiniteError: log p(x) of an image is NaN or infinite.
    """
    reported = "averaged" if config.ema_epochs else "raw"
    model.load_state_dict(weights[reported])
    protocol = Protocol(config.dataset, n_samples=config.n_samples, weights=reported)
    print(f"measuring: K = {config.n_samples}, {len(images.test)} images", file=sys.stderr)
    measured = nll(model, images, protocol)
    save_weights(reported, weights, folder)
    with whole_file(folder / "per_image_nll.npy") as file:
        np.save(file, measured.per_image_nll.numpy())
    pictures.save(pictures.samples(model), folder / "samples.png")
    return measured.numbers() | {"selected": f"last: step {step}"}


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
        crc32 = self.images.crc32
        return {"trainer": self.trainer.state(), "curve": self.curve, "all_images_crc32": crc32}

    def restore(self, state: Mapping[str, Any]) -> str:
        """Go to where ``state`` was taken; return what is to be told of it."""
        check_unchanged(self.images, state)
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
        return report(self, self.trainer.model, self.step, self.trainer.seconds)

    def measure(self, folder: Path) -> dict[str, Any]:
        """Measure the last weights on the test split and write what belongs to them."""
        trainer = self.trainer
        weights = trainer.weights()
        return measure(trainer.model, self.images, self.config, trainer.step, weights, folder)


def in_words(result: Mapping[str, Any]) -> str:
    """Return one line on a result."""
    if result["status"] == "failed":
        return f"failed: {result['reason']}"
    bits = f", {result['bits_per_dim']:.3f} bits/dim" if result["bits_per_dim"] else ""
    protocol, speed = result["protocol"], result["steps_per_second"]
    return (
        f"NLL {result['nll']:.2f} ± {result['nll_standard_error']:.2f}, "
        f"ELBO {result['elbo']:.2f} nats an image{bits} "
        f"(K = {protocol['K']}, {protocol['N']} test images, {protocol['weights']} weights, "
        f"{result['selected']}), "
        f"{speed:.{0 if speed >= 10 else 2}f} steps/s, {result['wall_time']:.1f} s"
    )
