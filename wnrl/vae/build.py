"""A VAE from its configuration, and back from a run folder."""

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch
from torch import nn

from wnrl.data import Images, dataset
from wnrl.errors import UsageError
from wnrl.nn import convert
from wnrl.runs import CONFIG, read_json
from wnrl.vae.config import VAEConfig
from wnrl.vae.model import VAE
from wnrl.vae.models import MODELS

CHECKPOINT = "model.pt"
SIZES = ("hidden", "latent_dim", "activation")  # what a model may take of a configuration


def build(config: VAEConfig, images: Images | None = None) -> VAE:
    """The untrained model: built plainly from ``config.seed``, then converted to ``config.norm``.

    A norm that changes nothing at the start gives the same function as ``none`` at the same seed.
    The global random state is left as it was.

    Args:
        config: the run.
        images: the data set, for the output bias; None where a state dict will follow.

    Returns:
        The model, on the CPU.
    """
    means = None
    if images is not None:
        total = images.train.sum(0, dtype=torch.int64)
        means = total / (len(images.train) * (images.levels - 1))
    make = MODELS[config.model]
    sizes = {
        name: getattr(config, name) for name in SIZES if name in inspect.signature(make).parameters
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = make(dataset(config.dataset).shape, pixel_means=means, **sizes)
        convert(model, config.norm)
    return model


def save_checkpoint(model: nn.Module, folder: Path) -> None:
    """Writes the state dict into a run folder."""
    with whole_file(folder / CHECKPOINT) as file:
        torch.save({name: value.cpu() for name, value in model.state_dict().items()}, file)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Opens a file beside ``path`` for bytes; it is renamed to ``path`` once all are on disk."""
    scratch = path.with_name(path.name + ".tmp")
    with scratch.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)


def load(run_folder: str | Path) -> VAE:
    """The trained model of a run, in eval mode on the CPU.

    It is built from ``config.json`` and filled from the state dict; no code from the folder runs.

    Raises:
        UsageError: the folder holds no trained VAE.
    """
    folder = Path(run_folder)
    for name in (CONFIG, CHECKPOINT):
        if not (folder / name).is_file():
            raise UsageError(f"run_folder {folder} holds no trained VAE: no {name}")
    try:
        config = VAEConfig.from_json(read_json(folder / CONFIG))
    except UsageError as error:
        raise UsageError(f"run_folder {folder} holds no trained VAE: {error}") from error
    model = build(config)
    state = torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=True)
    model.load_state_dict(state)
    return model.eval()
