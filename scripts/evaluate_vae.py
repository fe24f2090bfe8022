"""Measures a trained VAE under a stated protocol, alone or against another one.

    python scripts/evaluate_vae.py --run-dir runs/single/digits/mlp/weight/seed0 --n-samples 1000
    python scripts/evaluate_vae.py --run-dir <run> --against <other run> --split valid

The result is one line of JSON. Against another run it has the mean difference image by image, on
the same binary images and with the same K: below zero, the first run is better. The results of
each image stand beside the model, in ``nll_<split>_K<K>_<weights>.npz``.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts._interrupt import leave_at_ctrl_c

if __name__ == "__main__":
    leave_at_ctrl_c()  # until _cli.run catches it

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from scripts._cli import check_threads, run
from wnrl import data, vae
from wnrl.errors import UsageError, check_choice, check_positive
from wnrl.runs import resolve_device
from wnrl.vae.construction import config_of, read_weights
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
        check_threads(self.threads)
        if self.n_samples is not None:
            check_positive(n_samples=self.n_samples)
        check_choice("split", self.split, SPLITS)
        if self.weights is not None:
            check_choice("weights", self.weights, WEIGHTS)


@dataclass(frozen=True)
class Subject:
    """A trained model, and what is known of it before it is measured."""

    folder: Path
    config: vae.VAEConfig
    model: vae.VAE
    weights: str
    """raw or averaged."""

    @classmethod
    def of(cls, folder: Path, args: Args) -> "Subject":
        """The model in a run folder, with the weights that were asked for.

        Raises:
            UsageError: there is none, or no such weights of it.
        """
        config, weights = config_of(folder), args.weights or read_weights(folder)["reported"]
        return cls(folder, config, vae.load(folder, weights), weights)

    @property
    def kind(self) -> dict[str, str]:
        """What two runs must have in common to be compared."""
        levels = self.model.likelihood.levels
        return {
            "dataset": self.config.dataset,
            "images": "binary" if levels == 2 else "grey levels",
            "likelihood": "density" if levels is None else "probability",
        }

    def measured(self, args: Args, images: data.Images, n_samples: int) -> vae.Likelihood:
        """Its likelihood; what each image has is saved in its folder."""
        protocol = vae.Protocol(
            images.name,
            args.split,
            n_samples,
            args.binarisation_seed,
            args.noise_seed,
            self.weights,
        )
        n = len(images.part(args.split))
        print(f"measuring {self.folder}: K = {n_samples}, {n} images", file=sys.stderr)
        found = vae.nll(self.model.to(resolve_device(args.device)), images, protocol)
        name = f"nll_{args.split}_K{n_samples}_{self.weights}.npz"
        try:
            with whole_file(self.folder / name) as file:
                np.savez(
                    file,
                    allow_pickle=False,
                    nll=found.per_image_nll.numpy(),
                    elbo=found.per_image_elbo.numpy(),
                    protocol=json.dumps(found.record()),
                )
        except OSError as error:
            raise UsageError(
                f"run_dir {self.folder} cannot hold {name}: {error.strerror}"
            ) from error
        return found


def subjects(args: Args) -> list[Subject]:
    """The runs that are measured, one or two.

    Raises:
        UsageError: one holds no such model, or the two cannot be compared; nothing was measured.
    """
    folders = [args.run_dir, *([args.against] if args.against else [])]
    runs = [Subject.of(folder, args) for folder in folders]
    for what, ours in runs[0].kind.items():
        theirs = runs[-1].kind[what]
        if theirs != ours:
            raise UsageError(f"against must be a run of the same {what}: {ours!r}, got {theirs!r}")
    return runs


def evaluated(args: Args) -> dict[str, Any]:
    """Measures one run or two, and returns the result.

    Raises:
        UsageError: something in ``args`` cannot be used, or the two runs do not compare.
    """
    torch.set_num_threads(args.threads)
    runs = subjects(args)
    resolve_device(args.device)
    n_samples = args.n_samples or runs[0].config.n_samples
    images = data.load(runs[0].config.dataset, args.data_dir)
    found, *others = [run.measured(args, images, n_samples) for run in runs]
    result = {"run_dir": str(args.run_dir), **_numbers(found)}
    for other in others:
        paired = difference(found, other)
        reach = 1.96 * paired.standard_error
        interval = [paired.mean - reach, paired.mean + reach]
        result |= {
            "against": str(args.against),
            "other": _numbers(other),
            "difference": {**asdict(paired), "interval95": interval},
        }
    return result


def _numbers(found: vae.Likelihood) -> dict[str, Any]:
    return {
        "nll": found.nll,
        "nll_standard_error": found.standard_error,
        "elbo": found.elbo,
        "bits_per_dim": found.bits_per_dim,
        "active_units": found.active_units,
        "latent_units": found.latent_units,
        "protocol": found.record(),
    }


def main(args: Args) -> int:
    """Prints the result."""
    print(json.dumps(evaluated(args), allow_nan=False))
    return 0


if __name__ == "__main__":
    run(main, Args, description=__doc__)
