"""Measures a trained VAE under a stated protocol, alone or against another one.

    python scripts/evaluate_vae.py --run-dir runs/single/digits/mlp/weight/seed0 --n-samples 1000
    python scripts/evaluate_vae.py --run-dir <run> --against <other run> --split valid

The result is one line of JSON. Against another run it has the mean difference image by image, on
the same binary images and with the same K: below zero, the first run is better. The results of
each image stand beside the model, in ``nll_<split>_K<K>_<weights>.npz``.
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from scripts._cli import run
from wnrl import data, vae
from wnrl.errors import UsageError, check_choice, check_positive
from wnrl.runs import resolve_device
from wnrl.vae.build import config_of, read_weights
from wnrl.vae.files import whole_file
from wnrl.vae.measure import WEIGHTS, difference

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True, kw_only=True)
class Args:
    """Which model, and how it is measured."""

    run_dir: Path
    """A run folder of train_vae.py."""
    n_samples: int | None = None
    """K importance samples an image; as many as the run itself took if not given."""
    split: str = "test"
    """train, valid or test; all of it is used."""
    weights: str | None = None
    """raw or averaged; what the run reports if not given."""
    against: Path | None = None
    """Another run folder, measured in the same way."""
    binarisation_seed: int = 0
    """Of the one binary draw of the images."""
    noise_seed: int = 0
    """Of the importance samples."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<k>."""
    threads: int = 1
    """CPU threads of torch."""
    data_dir: Path | None = None
    """The folder with the files of data sets that are not embedded in a package."""

    def __post_init__(self) -> None:
        check_positive(threads=self.threads)
        if self.n_samples is not None:
            check_positive(n_samples=self.n_samples)
        check_choice("split", self.split, SPLITS)
        if self.weights is not None:
            check_choice("weights", self.weights, WEIGHTS)


def measured(args: Args, folder: Path, n_samples: int) -> vae.Likelihood:
    """The likelihood of the model in ``folder``; what each image has is saved there.

    Raises:
        UsageError: the folder holds no trained VAE, or its data set cannot be had.
    """
    config = config_of(folder)
    model = vae.load(folder, args.weights).to(resolve_device(args.device))
    weights = args.weights or read_weights(folder)["reported"]
    protocol = vae.Protocol(
        config.dataset, args.split, n_samples, args.binarisation_seed, args.noise_seed, weights
    )
    found = vae.nll(model, data.load(config.dataset, args.data_dir), protocol)
    name = f"nll_{args.split}_K{n_samples}_{weights}.npz"
    with whole_file(folder / name) as file:
        np.savez(
            file,
            allow_pickle=False,
            nll=found.per_image_nll.numpy(),
            elbo=found.per_image_elbo.numpy(),
            protocol=json.dumps(found.record()),
        )
    return found


def evaluated(args: Args) -> dict[str, Any]:
    """Measures one run or two, and returns the result.

    Raises:
        UsageError: something in ``args`` cannot be used, or the two runs do not compare.
    """
    torch.set_num_threads(args.threads)
    n_samples = args.n_samples or config_of(args.run_dir).n_samples
    if args.against is not None:
        theirs, ours = config_of(args.against).dataset, config_of(args.run_dir).dataset
        if theirs != ours:
            raise UsageError(f"against must be a run on dataset {ours!r}, got one on {theirs!r}")
    found = measured(args, args.run_dir, n_samples)
    result = {"run_dir": str(args.run_dir), **_numbers(found), "protocol": found.record()}
    if args.against is None:
        return result
    other = measured(args, args.against, n_samples)
    paired = difference(found, other)
    return {
        **result,
        "against": str(args.against),
        "other": _numbers(other),
        "difference": {
            **asdict(paired),
            "interval95": [
                paired.mean - 1.96 * paired.standard_error,
                paired.mean + 1.96 * paired.standard_error,
            ],
        },
    }


def _numbers(found: vae.Likelihood) -> dict[str, Any]:
    return {
        "nll": found.nll,
        "nll_standard_error": found.standard_error,
        "elbo": found.elbo,
        "bits_per_dim": found.bits_per_dim,
        "active_units": found.active_units,
        "latent_units": found.latent_units,
    }


def main(args: Args) -> int:
    """Prints the result."""
    print(json.dumps(evaluated(args), allow_nan=False))
    return 0


if __name__ == "__main__":
    run(main, Args, description=__doc__)
