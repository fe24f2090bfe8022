"""Draws what a trained VAE sees and dreams, as a PNG, or how DRAW draws, as a GIF too.

    python scripts/sample_vae.py --run-dir runs/single/digits/mlp/weight/seed0
    python scripts/sample_vae.py --run-dir <run of draw> --kind canvas --out canvas.gif

The path of the picture is the only line printed.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts._interrupt import leave_at_ctrl_c

if __name__ == "__main__":
    leave_at_ctrl_c()  # until _cli.run catches it

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from scripts._cli import run
from wnrl import data, vae
from wnrl.errors import UsageError, check_choice
from wnrl.vae import pictures
from wnrl.vae.construction import config_of
from wnrl.vae.files import whole_file
from wnrl.vae.models import DRAW

FORMATS = {".png": "PNG", ".gif": "GIF"}
FRAME_MS = 200
GIF_COLUMNS, GIF_ROWS = 8, 4


@dataclass(frozen=True, kw_only=True)
class Args:
    """What is drawn."""

    run_dir: Path
    """A run folder of train_vae.py."""
    kind: str = "samples"
    """samples, reconstructions (of validation images), traversals (a latent variable a row), or
    canvas (of DRAW, over its steps)."""
    out: Path | None = None
    """The file, .png, or .gif for canvas; <kind>.png in the run folder if not given."""
    weights: str | None = None
    """raw or averaged; what the run reports if not given."""
    data_dir: Path | None = None
    """The folder with the files of the data set, for reconstructions."""

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, PICTURES)
        if self.format not in FORMATS:
            raise UsageError(f"out must end with {' or '.join(FORMATS)}, got {self.path.name!r}")
        if self.format == ".gif" and self.kind != "canvas":
            raise UsageError(f"out can be a .gif for kind 'canvas' alone, got {self.kind!r}")

    @property
    def path(self) -> Path:
        """The file."""
        return self.out or self.run_dir / f"{self.kind}.png"

    @property
    def format(self) -> str:
        """The end of its name."""
        return self.path.suffix.lower()


def _reconstructions(model: vae.VAE, args: Args) -> Tensor:
    images = data.load(config_of(args.run_dir).dataset, args.data_dir)
    return pictures.reconstructions(model, images)


PICTURES: dict[str, Callable[[vae.VAE, Args], Tensor]] = {
    "samples": lambda model, args: pictures.samples(model),
    "reconstructions": _reconstructions,
    "traversals": lambda model, args: pictures.traversals(model),
    "canvas": lambda model, args: pictures.canvas(_draw(model)),
}


def _draw(model: vae.VAE) -> DRAW:
    if not isinstance(model, DRAW):
        raise UsageError(f"kind 'canvas' is for DRAW, and run_dir holds a {type(model).__name__}")
    return model


def main(args: Args) -> int:
    """Writes the picture, and prints where it is."""
    model = vae.load(args.run_dir, args.weights)
    if args.format == ".gif":
        steps = pictures.canvases(_draw(model), GIF_COLUMNS * GIF_ROWS, most=model_steps(model))
        frames = [pictures.grid(step, GIF_COLUMNS) for step in steps.unbind(1)]
    else:
        frames = [PICTURES[args.kind](model, args)]
    first, *others = [Image.fromarray(pictures.to_pixels(frame)) for frame in frames]
    animation = {"save_all": True, "append_images": others, "duration": FRAME_MS, "loop": 0}
    try:
        with whole_file(args.path) as file:
            first.save(file, FORMATS[args.format], **(animation if others else {}))
    except OSError as error:
        raise UsageError(f"out {args.path} cannot be written: {error.strerror}") from error
    print(args.path)
    return 0


def model_steps(model: vae.VAE) -> int:
    """How many canvases DRAW has."""
    return _draw(model).n_steps


if __name__ == "__main__":
    run(main, Args, description=__doc__)
