"""Trains one variational autoencoder and measures its likelihood.

    python scripts/train_vae.py --model mlp --dataset digits --norm weight --seed 0

The settings are those of ``wnrl.vae.PRESETS`` for the model and the data set; every one of them is
a flag. The run folder gets ``config.json``, ``versions.json``, TensorBoard events, ``model.pt``,
``samples.png``, ``per_image_nll.npy`` (nats, in the order of the test split) and, last,
``result.json``. Called again with the same flags, a finished run shows its result, and an
unfinished one starts anew.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.tensorboard.writer import SummaryWriter
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts import _cli
from wnrl import data, tags, vae
from wnrl.errors import NonFiniteError, UsageError, check_choice, check_positive
from wnrl.nn import plain_parts
from wnrl.runs import open_run, resolve_device, seed_everything
from wnrl.vae import pictures
from wnrl.vae.build import save_checkpoint, whole_file
from wnrl.vae.config import PRESETS, VAEConfig
from wnrl.vae.models import MODELS
from wnrl.vae.training import check_finite

N_PICTURES = 5  # how often reconstructions and samples are logged over the run
METRICS = (
    (tags.VAE_NLL, "nll"),
    (tags.VAE_TEST_ELBO, "elbo"),
    (tags.STEPS_PER_SECOND, "steps_per_second"),
)
CURVES = (tags.VAE_TRAIN_ELBO, tags.VAE_VALID_ELBO)


@dataclass(frozen=True)
class Args:
    """Flags; those that are None take the preset's value."""

    model: str = "mlp"
    """The kind of VAE: mlp."""
    dataset: str = "digits"
    """What it learns: digits, or mnist (from files in data_dir, WNRL_DATA or the user's cache)."""
    norm: str = "weight"
    """Normalisation, a key of wnrl.NORMS: none, weight, batch, layer, ..."""
    seed: int = 0
    """Seed of the weights and of everything random in training."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<k>."""
    run_dir: Path | None = None
    """The run's own folder; by default runs/single/<dataset>/<model>/<norm>/seed<k>."""
    threads: int = 1
    """CPU threads of torch; for small networks one is the fastest."""
    data_dir: Path | None = None
    """The folder with the files of data sets that are not embedded in a package."""
    epochs: int | None = None
    """Passes over the training set."""
    n_steps: int | None = None
    """Gradient steps, instead of epochs."""
    batch_size: int | None = None
    """Images in a gradient step."""
    learning_rate: float | None = None
    """Adam's step size at the start."""
    schedule: str | None = None
    """Of the learning rate: constant, or cosine (to 5 % over the second half)."""
    hidden: tuple[int, ...] | None = None
    """Widths of the encoder's hidden layers; the decoder mirrors them."""
    latent_dim: int | None = None
    """Number of latent variables."""
    activation: str | None = None
    """A key of wnrl.networks.ACTIVATIONS: tanh, relu, elu, ..."""
    n_samples: int | None = None
    """K importance samples an image for the reported NLL."""
    n_logs: int | None = None
    """Points of the learning curves."""

    @property
    def folder(self) -> Path:
        """Where the run goes."""
        parts = ("runs", "single", self.dataset, self.model, self.norm, f"seed{self.seed}")
        return self.run_dir or Path(*parts)

    def config(self) -> VAEConfig:
        """The preset with what was asked for in its place.

        Raises:
            UsageError: a word or a value that no run can have.
        """
        check_choice("model", self.model, MODELS)
        data.dataset(self.dataset)
        if (self.model, self.dataset) not in PRESETS:
            raise UsageError(f"no preset for model {self.model!r} on dataset {self.dataset!r}")
        names = [field.name for field in fields(VAEConfig)]
        asked = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if "n_steps" in asked:
            asked.setdefault("epochs", None)
        return replace(PRESETS[self.model, self.dataset], **asked)

    def as_config(self) -> dict[str, Any]:
        """Every value that decides what the run does."""
        device = str(resolve_device(self.device))
        return {**asdict(self.config()), "device": device, "threads": self.threads}


def train(
    args: Args,
    progress: Callable[[float], None] = lambda done: None,
    accepted: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Does the run, or reads what it gave when it is finished already.

    Args:
        args: the flags.
        progress: called with the share that is done, at every log step.
        accepted: called once, when nothing in ``args`` can be refused any more.

    Returns:
        What stands in ``result.json``. ``nll`` (positive, from K importance samples) and ``elbo``
        (negative) are means in nats an image over the test split; ``protocol`` says how they were
        measured. ``steps_per_second`` are gradient steps a second without evaluation;
        ``wall_time`` is everything, in seconds. Where a loss was not finite, ``status`` is
        ``failed``, with its ``reason``, and there is no ``nll``.

    Raises:
        UsageError: a flag is wrong; nothing was written.
    """
    config, settings = args.config(), args.as_config()
    check_positive(threads=args.threads)
    device = resolve_device(args.device)
    images = data.load(config.dataset, args.data_dir)
    config.total_steps(len(images.train))
    with open_run(args.folder, settings) as run:
        accepted()
        if run.finished:
            return run.result()
        torch.set_num_threads(args.threads)
        seed_everything(config.seed)
        with SummaryWriter(str(run.path)) as writer:
            result = _train_and_measure(config, images, device, run.path, writer, progress)
            metrics = {tag: result[key] for tag, key in METRICS if key in result}
            row = {"task": config.dataset, "algo": config.model, **settings}
            tags.write_hparams(writer, row, metrics, result["steps"])
        run.write_result(result)
    return result


def _train_and_measure(
    config: VAEConfig,
    images: data.Images,
    device: torch.device,
    folder: Path,
    writer: SummaryWriter,
    progress: Callable[[float], None],
) -> dict[str, Any]:
    start = time.perf_counter()
    model = vae.build(config, images).to(device)
    logs: list[vae.LogStep] = []
    try:
        for log in vae.train(model, images, config):
            for tag, value in log.scalars.items():
                writer.add_scalar(tag, value, log.step)
            shown = logs[-1].step * N_PICTURES // log.total_steps if logs else 0
            if log.step * N_PICTURES // log.total_steps > shown:
                writer.add_image(
                    tags.VAE_RECONSTRUCTIONS, pictures.reconstructions(model, images), log.step
                )
                writer.add_image(tags.VAE_SAMPLES, pictures.samples(model, images), log.step)
            logs.append(log)
            progress(log.step / log.total_steps)
        outcome = _measure(model, images, config, folder)
    except NonFiniteError as error:
        outcome = {"status": "failed", "reason": str(error)}
    steps = logs[-1].step if logs else 0
    rate = steps / logs[-1].seconds if logs else 0.0
    curves = {tag: [log.scalars[tag] for log in logs] for tag in CURVES}
    return outcome | {
        "steps": steps,
        "steps_per_second": rate,
        "images_per_second": rate * config.batch_size,
        "wall_time": time.perf_counter() - start,
        "device": str(device),
        "plain_parts": plain_parts(model, config.norm),
        "curve": {"steps": [log.step for log in logs], **curves},
    }


def _measure(
    model: vae.VAE, images: data.Images, config: VAEConfig, folder: Path
) -> dict[str, Any]:
    """Measures the trained model and writes everything that belongs to it into the folder."""
    measured = vae.nll(model, images, vae.Protocol(config.dataset, n_samples=config.n_samples))
    bounds = {tags.VAE_NLL: measured.nll, tags.VAE_TEST_ELBO: measured.elbo}
    check_finite(bounds, model, "on the test split")
    save_checkpoint(model, folder)
    with whole_file(folder / "per_image_nll.npy") as file:
        np.save(file, measured.per_image_nll.numpy())
    picture = pictures.samples(model, images).mul(255).byte().permute(1, 2, 0)
    with whole_file(folder / "samples.png") as file:
        Image.fromarray(picture.squeeze(2).numpy()).save(file, "PNG")
    return {
        "status": "finished",
        "nll": measured.nll,
        "elbo": measured.elbo,
        "nll_standard_error": measured.standard_error,
        "protocol": measured.record(),
    }


def main(args: Args) -> int:
    """Prints the run folder, trains, prints the result; 1 if the run failed."""
    shape = "{l_bar}{bar}| {elapsed}<{remaining}"
    with tqdm(total=1.0, bar_format=shape, disable=None, delay=1) as bar:

        def advance(done: float) -> None:
            bar.update(done - bar.n)

        result = train(args, advance, lambda: print(args.folder, flush=True))
    if result["status"] == "failed":
        print(f"failed: {result['reason']}")
        return 1
    print(
        f"NLL {result['nll']:.2f} ± {result['nll_standard_error']:.2f}, "
        f"ELBO {result['elbo']:.2f} nats an image "
        f"(K = {result['protocol']['K']}, {result['protocol']['N']} test images), "
        f"{result['steps_per_second']:.0f} steps/s, {result['wall_time']:.1f} s"
    )
    return 0


if __name__ == "__main__":
    _cli.run(main, Args, description=__doc__)
