"""Draw what a trained VAE sees and dreams, as a PNG, or how DRAW draws, as a GIF too.

    python scripts/sample_vae.py --run-dir runs/single/digits/mlp/weight/seed0
    python scripts/sample_vae.py --run-dir <run of draw> --kind canvas --out canvas.gif

The path of the picture is the only line printed.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts._cli import run
from wnrl.errors import UsageError
from wnrl.limits import Limited, one_of

KINDS = ("samples", "reconstructions", "traversals", "canvas")
FORMATS = (".png", ".gif")


@dataclass(frozen=True, kw_only=True)
class Args(Limited):
    """What is drawn."""

    run_dir: Path
    """A run folder of train_vae.py."""
    kind: Annotated[str, one_of(KINDS)] = "samples"
    """samples, reconstructions (of validation images), traversals (a latent variable a row), or
    canvas (of DRAW, over its steps)."""
    out: Path | None = None
    """The file, .png, or .gif for canvas; <kind>.png in the run folder if not given."""
    weights: str | None = None
    """raw or averaged; what the run reports if not given."""
    data_dir: Path | None = None
    """The folder with the files of the data set, for reconstructions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        ending = self.path.suffix.lower()
        if ending not in FORMATS:
            raise UsageError(f"out must end with {' or '.join(FORMATS)}, got {self.path.name!r}")
        if ending == ".gif" and self.kind != "canvas":
            raise UsageError(f"out can be a .gif for kind 'canvas' alone, got {self.kind!r}")

    @property
    def path(self) -> Path:
        """The file."""
        return self.out or self.run_dir / f"{self.kind}.png"


def main(args: Args) -> int:
    """Write the picture, and print where it is."""
    from wnrl.vae.pictures import draw, save

    try:
        save(draw(args.kind, args.run_dir, args.path, args.weights, args.data_dir), args.path)
    except OSError as error:
        raise UsageError(f"out {args.path} cannot be written: {error.strerror}") from error
    print(args.path)
    return 0


if __name__ == "__main__":
    run(main, Args, description=__doc__)
