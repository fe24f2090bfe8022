"""A VAE from its configuration, and back from a run folder."""

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from wnrl.data import Images
from wnrl.errors import UsageError, as_usage_error, check_choice, first_line, in_words, printable
from wnrl.nn import convert
from wnrl.runs import CONFIG, checked_file, is_finished, read_config, write_bytes
from wnrl.vae.config import SIZES, VAEConfig
from wnrl.vae.inputs import check_levels, training_inputs
from wnrl.vae.likelihoods import LIKELIHOODS
from wnrl.vae.model import VAE
from wnrl.vae.models import MODELS

MODEL = "model.pt"
Weights = Mapping[str, Mapping[str, Tensor]]
"""State dicts on the CPU by kind, ``raw`` and perhaps ``averaged``."""


def build(config: VAEConfig, images: Images | None = None) -> VAE:
    """Build plainly from ``config.seed``, then convert to ``config.norm``; nothing is trained yet.

    A norm that changes nothing at the start gives the same function as ``none`` at the same seed.
    The global random state is left as it was.

    Args:
        config: the run.
        images: the data set, for the output bias and the data-dependent initialisation; None where
            a state dict will follow.

    Returns:
        The model, on the CPU.

    Raises:
        UsageError: the images are not those of the configuration's data set, or no memory holds the
            model.

    Warns:
        UserWarning: the norm found no place in the model.
    """
    sizes = {name: size for name in SIZES if (size := getattr(config, name)) is not None}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        shape, levels = config.images.shape, config.images.levels
        likelihood = LIKELIHOODS[str(config.likelihood)](shape[0], levels)
        try:
            model = MODELS[config.model](shape, likelihood=likelihood, **sizes)
            if images is not None:
                if images.shape != shape:
                    raise UsageError(f"images must have shape {shape}, got {images.shape}")
                check_levels(likelihood, images)
                model.start_at(images.pixel_means)
            plain = () if config.norm_heads else model.output_layers()
            hidden = model.hidden_layers() or None
            convert(model, config.norm, skip=plain, norm_kwargs=config.norm_kwargs, hidden=hidden)
        except (UsageError, Warning):
            raise
        except Exception as error:  # more memory than there is, or others' code
            told = f"model {config.model} cannot be built: {in_words(error)}"
            raise UsageError(told) from error
        if images is not None and config.data_init:
            generator = torch.Generator().manual_seed(config.seed)
            chosen = torch.randperm(len(images.train), generator=generator)[: config.data_init]
            pixels = images.train[chosen]
            model.data_init(training_inputs(likelihood, pixels, images.levels, generator))
    return model


def save_weights(reported: str, kinds: Weights, folder: Path) -> None:
    """Write ``model.pt`` into a run folder.

    Args:
        reported: the kind that the run's numbers are about: ``raw`` or ``averaged``.
        kinds: the weights by kind.
        folder: the run's.
    """
    saved = {"reported": reported, "weights": dict(kinds)}
    write_bytes(folder / MODEL, lambda file: torch.save(saved, file))


def read_weights(run_folder: str | Path) -> tuple[str, Weights]:
    """Return the first two arguments of ``save_weights``, once the run is finished.

    Raises:
        UsageError: The file is damaged, or something else.
    """
    path = checked_file(Path(run_folder), MODEL)
    try:
        with warnings.catch_warnings():  # torch's, of other pickles
            warnings.simplefilter("ignore")
            saved = torch.load(path, map_location="cpu", weights_only=True)  # runs no code
        return saved["reported"], dict(saved["weights"])
    except Exception as error:  # zipfile's, pickle's and torch's own
        reason = first_line(error).partition(" In PyTorch")[0]  # which tells how to run its code
        raise UsageError(f"{path} is damaged or no VAE of wnrl: {reason}") from error


def load(run_folder: str | Path, weights: str | None = None) -> VAE:
    """Return the trained model of a run, in eval mode on the CPU.

    It is built from ``config.json`` and filled from a state dict; no code from the folder runs.

    Args:
        run_folder: where ``scripts/train_vae.py`` has trained.
        weights: ``raw`` or ``averaged``; None for those that the run's numbers are about.

    Raises:
        UsageError: The folder holds no trained VAE, a damaged one, or no such weights of it.
    """
    config, (reported, kinds) = config_of(run_folder), read_weights(run_folder)
    if weights is not None:
        check_choice("weights", weights, kinds)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "norm .* left .* as they were", UserWarning)
        model = build(config)
    try:
        model.load_state_dict(kinds[weights or reported])
    except (RuntimeError, KeyError, TypeError, UsageError) as error:
        raise UsageError(
            f"run_folder {run_folder} has a {MODEL} of another VAE than its {CONFIG}: "
            f"{printable(error, 160)}"
        ) from error
    return model.eval()


def config_of(run_folder: str | Path) -> VAEConfig:
    """Return the configuration of a trained VAE.

    Raises:
        UsageError: The folder holds none.
    """
    folder = Path(run_folder)
    settings = read_config(folder, "dataset")
    if not settings:
        raise UsageError(f"run_folder {folder} holds no trained VAE: no {CONFIG}")
    if not (is_finished(folder) and (folder / MODEL).is_file()):
        why = "its run failed" if is_finished(folder) else "it is not finished"
        raise UsageError(f"run_folder {folder} has no {MODEL}: {why}")
    with as_usage_error(f"run_folder {folder} holds no trained VAE", UsageError, say=str):
        return VAEConfig.from_json(settings)
