"""Draw what a trained VAE sees and dreams, or how DRAW draws, as a PNG.

    python scripts/sample_vae.py --run-dir runs/single/digits/mlp/weight/seed0
    python scripts/sample_vae.py --run-dir <run of draw> --kind canvas --out canvas.png

The path of the picture is the only line printed.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts._cli import run
from wnrl.errors import UsageError, as_usage_error
from wnrl.limits import Limited, one_of

KINDS = ("samples", "reconstructions", "traversals", "canvas")


@dataclass(frozen=True, kw_only=True)
class Args(Limited):
    """What is drawn."""

    run_dir: Path
    """A run folder of train_vae.py."""
    kind: Annotated[str, one_of(KINDS)] = "samples"
    """samples, reconstructions (of validation images), traversals (a latent variable a row), or
    canvas (of DRAW, over its steps)."""
    out: Path | None = None
    """The file, .png; <kind>.png in the run folder if not given."""
    weights: str | None = None
    """raw or averaged; what the run reports if not given."""
    data_dir: Path | None = None
    """The folder with the files of the data set, for reconstructions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.path.suffix.lower() != ".png":
            raise UsageError(f"out must end with .png, got {self.path.name!r}")

    @property
    def path(self) -> Path:
        """The file."""
        return self.out or self.run_dir / f"{self.kind}.png"


def main(args: Args) -> None:
    """Write the picture, and print where it is."""
    from wnrl.vae.pictures import draw, save

    what = f"out {args.path} cannot be written"
    with as_usage_error(what, OSError, say=lambda error: str(error.strerror)):
        save(draw(args.kind, args.run_dir, args.weights, args.data_dir), args.path)
    print(args.path)


if __name__ == "__main__":
    run(main, Args, description=__doc__)
