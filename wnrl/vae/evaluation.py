"""Trained VAEs measured under a stated protocol, alone or against one another."""

import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wnrl import data
from wnrl.errors import UsageError
from wnrl.runs import resolve_device, whole_file
from wnrl.vae.config import VAEConfig
from wnrl.vae.construction import config_of, load, read_weights
from wnrl.vae.measure import Likelihood, Protocol, difference, nll
from wnrl.vae.model import VAE


@dataclass(frozen=True)
class Subject:
    """A trained model, and what is known of it before it is measured."""

    folder: Path
    config: VAEConfig
    model: VAE
    weights: str
    """raw or averaged."""

    @classmethod
    def of(cls, folder: Path, weights: str | None) -> "Subject":
        """Return the model in a run folder.

        Raises:
            UsageError: There is none, or no such weights of it.
        """
        config, kind = config_of(folder), weights or read_weights(folder).reported
        return cls(folder, config, load(folder, kind), kind)

    @property
    def kind(self) -> dict[str, str]:
        """What two runs must have in common to be compared."""
        levels = self.model.likelihood.levels
        return {
            "dataset": self.config.dataset,
            "images": "binary" if levels == 2 else "grey levels",
            "likelihood": "density" if levels is None else "probability",
        }

    def measured(self, images: data.Images, protocol: Protocol, device: str) -> Likelihood:
        """Return its likelihood; what each image has is saved in its folder."""
        protocol = replace(protocol, weights=self.weights)
        split, n_samples = protocol.split, protocol.n_samples
        n = len(images.part(split))
        print(f"measuring {self.folder}: K = {n_samples}, {n} images", file=sys.stderr)
        likelihood = nll(self.model.to(resolve_device(device)), images, protocol)
        name = f"nll_{split}_K{n_samples}_{self.weights}.npz"
        try:
            with whole_file(self.folder / name) as file:
                np.savez(
                    file,
                    allow_pickle=False,
                    nll=likelihood.per_image_nll.numpy(),
                    elbo=likelihood.per_image_elbo.numpy(),
                    protocol=json.dumps(likelihood.record()),
                )
        except OSError as error:
            raise UsageError(
                f"run_dir {self.folder} cannot hold {name}: {error.strerror}"
            ) from error
        return likelihood


def evaluate(
    run_dir: Path,
    against: Path | None = None,
    *,
    split: str = "test",
    n_samples: int | None = None,
    weights: str | None = None,
    binarisation_seed: int = 0,
    noise_seed: int = 0,
    device: str = "auto",
    data_dir: Path | None = None,
) -> dict[str, Any]:
    """Measure one run, or two on the same images.

    Args:
        run_dir: a run folder of ``scripts/train_vae.py``.
        against: another one.
        split: see ``Protocol``, which has the seeds too.
        n_samples: K; None for as many as the first run itself took.
        weights: raw or averaged; None for those that each run reports.
        binarisation_seed: of the one binary draw of the images.
        noise_seed: of the importance samples.
        device: auto, cpu, cuda or cuda:<k>.
        data_dir: the folder with the files of the data set.

    Returns:
        The numbers of the first run in JSON types; with ``against`` also those of the ``other`` and
        the paired ``difference``, below zero where the first one is better.

    Raises:
        UsageError: A folder holds no such model, or the two runs do not compare; nothing was
            measured then.
        NonFiniteError: log p(x) of an image is NaN or infinite.
    """
    subjects = [Subject.of(folder, weights) for folder in (run_dir, against) if folder is not None]
    first = subjects[0]
    for what, ours in first.kind.items():
        other_kind = subjects[-1].kind[what]
        if other_kind != ours:
            raise UsageError(
                f"against must be a run of the same {what}: {ours!r}, got {other_kind!r}"
            )
    resolve_device(device)
    name, k = first.config.dataset, first.config.n_samples if n_samples is None else n_samples
    protocol = Protocol(name, split, k, binarisation_seed, noise_seed)
    images = data.load(name, data_dir)
    measured = [subject.measured(images, protocol, device) for subject in subjects]
    result = {"run_dir": str(run_dir), **measured[0].numbers()}
    if against is not None:
        paired = difference(*measured)
        reach = 1.96 * paired.standard_error
        interval = [paired.mean - reach, paired.mean + reach]
        result |= {
            "against": str(against),
            "other": measured[1].numbers(),
            "difference": {**asdict(paired), "interval95": interval},
        }
    return result
