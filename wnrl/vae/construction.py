"""A VAE from its configuration, and back from a run folder."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wnrl.data import Images, dataset
from wnrl.errors import UsageError, check_choice
from wnrl.nn import convert
from wnrl.runs import CONFIG, is_finished, read_json
from wnrl.vae.config import SIZES, VAEConfig
from wnrl.vae.files import read_state, write_state
from wnrl.vae.inputs import check_levels, training_inputs
from wnrl.vae.likelihoods import LIKELIHOODS, Bernoulli
from wnrl.vae.model import VAE
from wnrl.vae.models import MODELS
from wnrl.vae.pixels import PixelLikelihood

WEIGHTS = "model.pt"
INIT = 2  # keeps the seed of the initialisation's binary images apart from those of other draws


def build(config: VAEConfig, images: Images | None = None) -> VAE:
    """The untrained model: built plainly from ``config.seed``, then converted to ``config.norm``.

    A norm that changes nothing at the start gives the same function as ``none`` at the same seed.
    The global random state is left as it was.

    Args:
        config: the run.
        images: the data set, for the output bias and the data-dependent initialisation; None where
            a state dict will follow.

    Returns:
        The model, on the CPU.

    Warns:
        UserWarning: the norm found no place in the model.
    """
    means = None
    if images is not None:
        if not len(images.train):
            raise UsageError(f"split 'train' of dataset {images.name!r} has no images")
        total = images.train.sum(0, dtype=torch.int64)
        means = total / (len(images.train) * (images.levels - 1))
    known = dataset(config.dataset)
    sizes = {
        argument: getattr(config, name)
        for name, argument in SIZES.items()
        if getattr(config, name) is not None
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = MODELS[config.model](
            known.shape, likelihood=likelihood_of(config), pixel_means=means, **sizes
        )
        plain = () if config.norm_heads else model.output_layers()
        convert(model, config.norm, skip=plain, norm_kwargs=config.norm_kwargs)
        if images is not None:
            check_levels(model.likelihood, images)
            if config.data_init:
                model.data_init(_first_images(model.likelihood, images, config))
    return model


def likelihood_of(config: VAEConfig) -> PixelLikelihood:
    """The likelihood that a configuration names, for its data set."""
    known = dataset(config.dataset)
    kind = LIKELIHOODS[str(config.likelihood)]
    channels = known.shape[0]
    return kind(channels) if kind is Bernoulli else kind(channels, known.levels)


def _first_images(likelihood: PixelLikelihood, images: Images, config: VAEConfig) -> Tensor:
    """Training images drawn without replacement, for the data-dependent initialisation."""
    generator = torch.Generator().manual_seed(config.seed)
    chosen = torch.randperm(len(images.train), generator=generator)[: config.data_init]
    return training_inputs(likelihood, images.train[chosen], images.levels, generator)


def save_weights(weights: Mapping[str, Mapping[str, Tensor]], reported: str, folder: Path) -> None:
    """Writes state dicts into a run folder.

    Args:
        weights: state dicts on the CPU by kind, ``raw`` and perhaps ``averaged``.
        reported: the kind that numbers are about.
        folder: the run's.
    """
    write_state(folder / WEIGHTS, {"reported": reported, "weights": dict(weights)})


def load(run_folder: str | Path, weights: str | None = None) -> VAE:
    """The trained model of a run, in eval mode on the CPU.

    It is built from ``config.json`` and filled from a state dict; no code from the folder runs.

    Args:
        run_folder: where ``scripts/train_vae.py`` has trained.
        weights: ``raw`` or ``averaged``; None for those that the run's numbers are about.

    Raises:
        UsageError: the folder holds no trained VAE, or no such weights of it.
    """
    config = config_of(run_folder)
    found = read_weights(run_folder)
    kinds = found["weights"]
    if weights is not None:
        check_choice("weights", weights, kinds)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"norm '\w+' found no hidden layer", UserWarning)
        model = build(config)
    try:
        model.load_state_dict(kinds[weights or found["reported"]])
    except (RuntimeError, UsageError) as error:  # torch's, and those of weight-normalized layers
        raise UsageError(
            f"run_folder {run_folder} has a {WEIGHTS} of another VAE than its {CONFIG}: "
            f"{' '.join(str(error).split())[:160]}"
        ) from error
    return model.eval()


def config_of(run_folder: str | Path) -> VAEConfig:
    """The configuration of a trained VAE.

    Raises:
        UsageError: the folder holds none.
    """
    folder = Path(run_folder)
    if not (folder / CONFIG).is_file():
        raise UsageError(f"run_folder {folder} holds no trained VAE: no {CONFIG}")
    settings = settings_of(folder, "run_folder")
    if not (folder / WEIGHTS).is_file():
        why = "its run failed" if is_finished(folder) else "it is not finished"
        raise UsageError(f"run_folder {folder} has no {WEIGHTS}: {why}")
    try:
        return VAEConfig.from_json(settings)
    except UsageError as error:
        raise UsageError(f"run_folder {folder} holds no trained VAE: {error}") from error


def settings_of(folder: Path, argument: str) -> dict[str, Any]:
    """What ``config.json`` of a VAE's run holds.

    Args:
        folder: the run's, with the file in it.
        argument: what the folder was given as.

    Raises:
        UsageError: the file is damaged, or of a run of another program.
    """
    settings = read_json(folder / CONFIG)
    if "dataset" not in settings:
        raise UsageError(
            f"{argument} {folder} holds a run of another program: its {CONFIG} has no dataset"
        )
    return settings


def read_weights(run_folder: str | Path) -> dict[str, Any]:
    """What ``save_weights`` wrote: ``weights`` by kind, and which kind is ``reported``.

    Raises:
        UsageError: the file is damaged, or something else.
    """
    return read_state(Path(run_folder) / WEIGHTS, "VAE of wnrl", ("reported", "weights"))
