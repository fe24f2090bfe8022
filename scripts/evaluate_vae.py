"""Measure a trained VAE under a stated protocol, alone or against another one.

    python scripts/evaluate_vae.py --run-dir runs/single/digits/mlp/weight/seed0 --n-samples 1000
    python scripts/evaluate_vae.py --run-dir <run> --against <other run> --split valid

The result is one line of JSON. Against another run it has the mean difference image by image, on
the same binary images and with the same K: below zero, the first run is better.
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts._cli import run
from wnrl.limits import Limited, Threads, Whole, one_of


@dataclass(frozen=True, kw_only=True)
class Args(Limited):
    """Which model, and how it is measured."""

    run_dir: Path
    """A run folder of train_vae.py."""
    n_samples: Whole | None = None
    """K importance samples an image; as many as the run itself took if not given."""
    split: Annotated[str, one_of(("train", "valid", "test"))] = "test"
    """train, valid or test; all of it is used."""
    weights: Annotated[str, one_of(("raw", "averaged"))] | None = None
    """raw or averaged; what the run reports if not given."""
    against: Path | None = None
    """Another run folder, measured in the same way."""
    binarisation_seed: int = 0
    """Of the one binary draw of the images."""
    noise_seed: int = 0
    """Of the importance samples."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<k>."""
    threads: Threads = 1
    """CPU threads of torch."""
    data_dir: Path | None = None
    """The folder with the files of data sets that are not embedded in a package."""


def main(args: Args) -> None:
    """Print the result."""
    import torch

    from wnrl.vae.evaluation import evaluate

    values = asdict(args)
    torch.set_num_threads(values.pop("threads"))
    print(json.dumps(evaluate(**values), allow_nan=False))


if __name__ == "__main__":
    run(main, Args, description=__doc__)
