"""Trained VAEs measured under a stated protocol, alone or against one another."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wnrl import data
from wnrl.errors import UsageError
from wnrl.runs import resolve_device
from wnrl.vae.construction import config_of, load, read_weights
from wnrl.vae.measure import Protocol, difference, nll


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
    folders = [run_dir] if against is None else [run_dir, against]
    configs = [config_of(folder) for folder in folders]
    kinds = [weights or read_weights(folder)[0] for folder in folders]
    models = [load(*chosen) for chosen in zip(folders, kinds, strict=True)]
    for what, values in {
        "dataset": [config.dataset for config in configs],
        "images": ["binary" if m.likelihood.levels == 2 else "grey levels" for m in models],
        "likelihood": ["density" if m.likelihood.levels is None else "probability" for m in models],
    }.items():
        if values[-1] != values[0]:
            raise UsageError(
                f"against must be a run of the same {what}: {values[0]!r}, got {values[-1]!r}"
            )
    place, name = resolve_device(device), configs[0].dataset
    k = configs[0].n_samples if n_samples is None else n_samples
    images = data.load(name, data_dir)
    measured = []
    for folder, kind, model in zip(folders, kinds, models, strict=True):
        protocol = Protocol(name, split, k, binarisation_seed, noise_seed, kind)
        n = len(images.part(split))
        print(f"measuring {folder}: K = {k}, {n} images", file=sys.stderr)
        measured.append(nll(model.to(place), images, protocol))
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
