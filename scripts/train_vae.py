"""Train one variational autoencoder and measure its likelihood.

    python scripts/train_vae.py --model mlp --dataset digits --norm weight --seed 0

The settings are those of the preset for the model and the data set; every one of them is a flag,
with its value in this help: ``--model conv --dataset mnist --help`` shows those of the two. The
run folder gets ``config.json``, ``versions.json``, TensorBoard events, ``model.pt``,
``samples.png``, ``per_image_nll.npy`` (nats, in the order of the test split) and, last,
``result.json``. With
``--resume`` a run that was stopped goes on from its last checkpoint, on the CPU with the same bits
as if it had not been stopped, and a finished one goes on to more ``--epochs``; ``--run-dir <folder>
--resume`` is enough, for what is not given, but for ``--device``, is what the run has. Called again
with the same flags, a finished run shows its result.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts import _cli

# From here on Ctrl-C and a package that is missing are taken care of.
# isort: split
from collections.abc import Sequence
from dataclasses import dataclass, replace

import tyro

from wnrl.errors import UsageError
from wnrl.runs import CONFIG, RESULT, Options, read_config, reading
from wnrl.vae.config import VAEConfig
from wnrl.vae.presets import USUAL, preset
from wnrl.vae.run import Machine, in_words, train_in


@dataclass(frozen=True, kw_only=True)
class Args:
    """One run; ``preset_of`` fills in what is not given."""

    preset: str = USUAL
    """Which settings the flags change: default, 150 (epochs, of MLPs) or long (for a GPU)."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<k>."""
    run_dir: Path | None = None
    """The run's own folder; by default runs/single/<dataset>/<model>/<norm>/seed<k>."""
    threads: int | None = None
    """CPU threads of torch; 1 if not given, the fastest for small networks."""
    data_dir: Path | None = None
    """The folder with the files of data sets that are not embedded in a package."""
    resume: bool = False
    """Go on where the run in the folder was stopped, or to more epochs; begins where it is empty,
    if --model or --dataset says with what."""
    checkpoint_minutes: float = 10.0
    """Time between the checkpoints for --resume."""
    keep_checkpoint: bool = True
    """Leave one in a finished run too, which can then be extended."""
    compile: bool = False
    """Compile the model for training."""
    config: tyro.conf.OmitArgPrefixes[VAEConfig]
    """Settings of the run; the defaults are those of the preset for --model and --dataset."""

    @property
    def folder(self) -> Path:
        """The run's folder."""
        run = self.config
        task = run.dataset.replace("/", "_").replace(":", "_")
        return self.run_dir or Path("runs/single", task, run.model, run.norm, f"seed{run.seed}")


def preset_of(argv: Sequence[str]) -> Args:
    """Return what the flags that are not given mean: the preset for the model and data set.

    With --resume and without --preset it is what the run in the folder has, if that is of the model
    and data set that are given.

    Raises:
        UsageError: There is no such model, data set or preset, or the folder is another program's,
            or holds no run, and nothing says which one to begin.
    """
    names = ("model", "dataset", "preset", "norm", "seed", "epochs", "n_steps", "run_dir")
    given = _cli.scanned(argv, names)
    variant, machine = given.preset or USUAL, {}
    config = preset(given.model or "mlp", given.dataset or "digits", variant)
    if given.resume and not (given.help or given.preset):
        seed = config.seed if given.seed is None else _cli.scanned_number(given.seed) or 0
        usual = Args(config=replace(config, norm=given.norm or config.norm, seed=seed)).folder
        folder = Path(given.run_dir or usual)
        earlier = read_config(folder, "model", "dataset")
        if not (earlier or given.model or given.dataset):
            lacks = f"run_dir {folder} holds no run to go on with"
            raise UsageError(f"{lacks}; to begin one there, say which: --model or --dataset")
        if earlier and all(getattr(given, k) in (None, earlier[k]) for k in ("model", "dataset")):
            with reading(folder / CONFIG):
                config = VAEConfig.from_json(earlier)
                machine = {name: earlier[name] for name in ("threads", "compile")}
    if given.n_steps is not None and given.epochs is None:  # they take the place of epochs
        config = replace(config, epochs=None, n_steps=1)
    return Args(preset=variant, config=config, **machine)


def main(args: Args) -> int:
    """Print the run folder, train, print the result; return 1 if the run failed."""
    machine = Machine(args.device, args.threads, args.compile)
    options = Options(args.resume, args.checkpoint_minutes, args.keep_checkpoint)
    where = (args.folder, args.config, machine, args.data_dir)
    with _cli.progress_bar() as progress:
        result = train_in(*where, options, progress, lambda: print(args.folder, flush=True))
    with reading(args.folder / RESULT):
        print(in_words(result), flush=True)
    return 1 if result["status"] == "failed" else 0


if __name__ == "__main__":
    _cli.run(main, Args, description=__doc__, default=preset_of)
