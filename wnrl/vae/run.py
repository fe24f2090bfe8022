"""A VAE as a run in its folder: training, then the measurement of its likelihood."""

import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wnrl import data, tags
from wnrl.compiling import compiled
from wnrl.errors import UsageError
from wnrl.limits import Limited, Threads
from wnrl.nn import plain_parts
from wnrl.runs import EventFile, Meaning, Options, carry_out, resolve_device, seed_everything
from wnrl.runs.files import whole_file
from wnrl.runs.session import AS_USUAL
from wnrl.vae import pictures
from wnrl.vae.config import VAEConfig
from wnrl.vae.construction import MODEL, build, save_weights
from wnrl.vae.measure import Protocol, nll
from wnrl.vae.presets import USUAL, preset
from wnrl.vae.training import Trainer

FILES = (MODEL, "samples.png", "per_image_nll.npy", "nll_*_K*_*.npz")
"""What belongs to a trained model; the last, which evaluations left beside it once, is not made."""
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
    images = data.load(config.dataset, data_dir)
    n_train = len(images.train)
    config.total_steps(n_train)
    meaning = Meaning(
        ("epochs", "n_steps"), lambda had: VAEConfig.from_json(had).total_steps(n_train), defaults
    )
    work = partial(VAEWork, config, images, machine)
    return carry_out(folder, wanted, work, meaning, FILES, options, progress, accepted)


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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they come when the model is built for the run
        build(config)
    named = {} if machine.device == "auto" else {"device": str(device)}
    return {**config.to_json(), **asdict(machine), **named}


def defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what each setting of a run is where nothing is said, with or without a preset."""
    config = VAEConfig(settings["model"], settings["dataset"])
    return {**config.to_json(), **asdict(Machine())}


def settings(trial: Any) -> dict[str, Any]:
    """Return what ``config.json`` of a trial's run will hold; see ``train``."""
    config, machine, _ = _values(trial)
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
    config, machine, data_dir = _values(trial)
    options = Options(resume=True, keep_checkpoint=False)
    return train_in(folder, config, machine, data_dir, options, progress)


def _values(trial: Any) -> tuple[VAEConfig, Machine, Path | None]:
    asked = dict(trial.settings)
    names = asked.keys() & {"device", "threads", "compile"}
    machine = Machine(**{name: asked.pop(name) for name in names})
    data_dir, variant = asked.pop("data_dir", None), asked.pop("preset", USUAL)
    norm = {"norm": trial.arm.norm, "norm_kwargs": dict(trial.norm_kwargs)}
    config = preset(trial.task.algo, trial.task.name, variant, **asked, **norm, seed=trial.seed)
    return config, machine, None if data_dir is None else Path(data_dir)


def in_words(result: Mapping[str, Any]) -> str:
    """Return one line on a result."""
    if result["status"] == "failed":
        return f"failed: {result['reason']}"
    bits = f", {result['bits_per_dim']:.3f} bits/dim" if result["bits_per_dim"] else ""
    protocol = result["protocol"]
    return (
        f"NLL {result['nll']:.2f} ± {result['nll_standard_error']:.2f}, "
        f"ELBO {result['elbo']:.2f} nats an image{bits} "
        f"(K = {protocol['K']}, {protocol['N']} test images, {protocol['weights']} weights, "
        f"{result['selected']}), "
        f"{result['steps_per_second']:.0f} steps/s, {result['wall_time']:.1f} s"
    )


class VAEWork:
    """A VAE's training as ``wnrl.runs`` carries it out.

    Args:
        config: the run.
        images: the data set.
        machine: where it is trained.
    """

    metrics: Mapping[str, str] = {
        tags.VAE_NLL: "nll",
        tags.VAE_TEST_ELBO: "elbo",
        tags.STEPS_PER_SECOND: "steps_per_second",
    }

    def __init__(self, config: VAEConfig, images: data.Images, machine: Machine) -> None:
        device, threads = resolve_device(machine.device), machine.threads or 1
        torch.set_num_threads(threads)
        seed_everything(config.seed)
        self.config, self.images = config, images
        self.identity: Mapping[str, Any] = {"task": config.dataset, "algo": config.model}
        self.machine: Mapping[str, Any] = {"device": str(device), "threads": threads}
        model, forward = build(config, images).to(device), None
        if machine.compile:
            forward = compiled(model.forward, f"model {config.model!r}")
        self.trainer = Trainer(model, images, config, forward)
        self.total_steps = self.trainer.total_steps
        self.curve: dict[str, list[float]] = {"steps": []}

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
        steps = self.curve["steps"]
        for log in self.trainer.run(between):
            shown = int(steps[-1]) * N_PICTURES // log.total_steps if steps else 0
            steps.append(log.step)
            for tag, value in log.scalars.items():
                events.add_scalar(tag, value, log.step)
                if tag in CURVES:
                    self.curve.setdefault(tag, []).append(value)
            if log.step * N_PICTURES // log.total_steps > shown:
                with self.trainer.measured_weights():
                    shots = pictures.all_pictures(self.trainer.model, self.images)
                for tag, picture in shots.items():
                    events.add_image(tag, picture.numpy(), log.step)

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
        config, model = self.config, self.trainer.model
        step, kinds = self.trainer.selected()
        reported = "averaged" if config.ema_epochs else "raw"
        model.load_state_dict(kinds[reported])
        protocol = Protocol(config.dataset, n_samples=config.n_samples, weights=reported)
        print(f"measuring: K = {config.n_samples}, {len(self.images.test)} images", file=sys.stderr)
        measured = nll(model, self.images, protocol)
        save_weights(reported, kinds, folder)
        with whole_file(folder / "per_image_nll.npy") as file:
            np.save(file, measured.per_image_nll.numpy())
        pictures.save(pictures.samples(model), folder / "samples.png")
        return measured.numbers() | {"selected": f"{config.select}: step {step}"}
