"""Trains one variational autoencoder and measures its likelihood.

    python scripts/train_vae.py --model mlp --dataset digits --norm weight --seed 0

The settings are those of ``wnrl.vae.PRESETS`` for the model and the data set; every one of them is
a flag. The run folder gets ``config.json``, ``versions.json``, TensorBoard events, ``model.pt``,
``samples.png``, ``per_image_nll.npy`` (nats, in the order of the test split) and, last,
``result.json``. With ``--resume`` a run that was stopped goes on from its last checkpoint, on the
CPU with the same bits as if it had not been stopped, and a finished one goes on to more
``--epochs``. Called again with the same flags, a finished run shows its result.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts._interrupt import leave_at_ctrl_c

if __name__ == "__main__":
    leave_at_ctrl_c()  # until _cli.run catches it

import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NoReturn, cast

import torch
from tqdm import tqdm

from scripts import _cli
from scripts._vae_folder import opened, tell
from scripts._vae_session import Plan, Session
from wnrl import data, vae
from wnrl.errors import UsageError
from wnrl.runs import resolve_device, seed_everything
from wnrl.runs.interrupts import Stopped
from wnrl.vae import VAEConfig
from wnrl.vae.presets import USUAL, preset


@dataclass(frozen=True)
class Args:
    """Flags; those that are None take the preset's value."""

    model: str = "mlp"
    """The kind of VAE: mlp, mlp2, conv, conv_iaf, draw, draw_attention or frames."""
    dataset: str = "digits"
    """What it learns: digits, mnist, mnist-static, omniglot-small, fashion-mnist, cifar10 (from
    files in data_dir, WNRL_DATA or the user's cache), or frames:<env id>."""
    norm: str = "weight"
    """Normalisation, a key of wnrl.NORMS: none, weight, batch, layer, ..."""
    seed: int = 0
    """Seed of the weights and of everything random in training."""
    preset: str = USUAL
    """Which settings the other flags change: default, 150 (epochs, of MLPs) or long (for a GPU)."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<k>."""
    run_dir: Path | None = None
    """The run's own folder; by default runs/single/<dataset>/<model>/<norm>/seed<k>."""
    threads: int = 1
    """CPU threads of torch; for small networks one is the fastest."""
    data_dir: Path | None = None
    """The folder with the files of data sets that are not embedded in a package."""
    resume: bool = False
    """Go on where the run in the folder was stopped, or to more epochs; begins an empty one."""
    checkpoint_minutes: float = 10.0
    """Time between the checkpoints for --resume."""
    keep_checkpoint: bool = True
    """Leave one in a finished run too, which can then be extended."""
    compile: bool = False
    """Compile the model for training; CUDA graphs on a GPU."""
    amp: bool = False
    """Train networks in bfloat16; log-probabilities and what is measured stay in float32."""
    likelihood: str | None = None
    """Of the pixels: bernoulli, logistic, logistic_mixture or normal (a density)."""
    objective: str | None = None
    """What is maximised: elbo, iwae or dreg."""
    train_samples: int | None = None
    """K, samples an image in training."""
    train_chunk: int | None = None
    """For iwae: samples at a time, for memory."""
    beta: float | None = None
    """For elbo: factor of the KL in training."""
    warm_up_epochs: float | None = None
    """For elbo: epochs over which the KL's factor rises from 0."""
    free_bits: float | None = None
    """For elbo: nats that each group of latent variables has free in training."""
    free_bits_per: str | None = None
    """group or example."""
    data_init: int | None = None
    """Images for the data-dependent initialisation before the first step; 0 for none."""
    norm_kwargs: dict[str, int | float | str] | None = None
    """Options of the norm, as in --norm-kwargs momentum 0.01."""
    norm_heads: bool = True
    """Whether output layers take the norm too, where it has a way."""
    epochs: int | None = None
    """Passes over the training set."""
    n_steps: int | None = None
    """Gradient steps, instead of epochs."""
    batch_size: int | None = None
    """Images in a gradient step."""
    optimizer: str | None = None
    """adam or adamax."""
    learning_rate: float | None = None
    """Its step size at the start."""
    schedule: str | None = None
    """Of the step size: constant, cosine (to 5 % over the second half), or iwae (its paper's)."""
    max_grad_norm: float | None = None
    """Gradients are scaled down to this length, taken together."""
    ema_epochs: float | None = None
    """Over about so many epochs weights are averaged for all that is measured; 0 for none."""
    select: str | None = None
    """Which weights are measured: last, or best (on the validation split)."""
    hidden: tuple[int, ...] | None = None
    """Widths of the mlp's encoder's hidden layers; the decoder mirrors them."""
    latent_dim: int | None = None
    """Number of latent variables."""
    activation: str | None = None
    """For mlp and mlp2, a key of wnrl.networks.ACTIVATIONS: tanh, relu, elu, ..."""
    draw_steps: int | None = None
    """Steps of DRAW."""
    n_samples: int | None = None
    """K importance samples an image for the reported NLL."""
    n_logs: int | None = None
    """Points of the learning curves."""

    @property
    def folder(self) -> Path:
        """Where the run goes."""
        task = self.dataset.replace("/", "_").replace(":", "_")
        parts = ("runs", "single", task, self.model, self.norm, f"seed{self.seed}")
        return self.run_dir or Path(*parts)

    def config(self) -> VAEConfig:
        """The preset with what was asked for in its place.

        Raises:
            UsageError: a word or a value that no run can have.
        """
        chosen = preset(self.model, self.dataset, self.preset)
        given = {field.name: getattr(self, field.name) for field in fields(VAEConfig)}
        asked = {name: value for name, value in given.items() if value is not None}
        if "n_steps" in asked:
            asked.setdefault("epochs", None)
        return replace(chosen, **asked)

    def as_config(self) -> dict[str, Any]:
        """Every value that decides what the run does."""
        device = str(resolve_device(self.device))
        where = {"device": device, "threads": self.threads, "compile": self.compile}
        return {**asdict(self.config()), **where}

    def settled(self) -> "Args":
        """These flags as far as the machine can follow; what it cannot is told on stderr.

        Raises:
            UsageError: a value that ``config`` does not check.
        """
        _cli.check_threads(self.threads)
        if not self.checkpoint_minutes >= 0:
            raise UsageError(
                f"checkpoint_minutes must be zero or above, got {self.checkpoint_minutes}"
            )
        if self.compile and self.config().objective == "dreg":
            raise UsageError("compile is not for objective 'dreg', which takes the model apart")
        device = resolve_device(self.device)
        if self.amp and device.type == "cuda" and not torch.cuda.is_bf16_supported():
            tell(f"--amp: {device} has no bfloat16: trained in float32")
            return replace(self, amp=False)
        return self


def train(
    args: Args,
    progress: Callable[[float], None] = lambda done: None,
    accepted: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Does the run, or reads what it gave when it is finished already.

    Args:
        args: the flags.
        progress: called with the share that is done, at every log step.
        accepted: called once, when nothing in ``args`` can be refused any more.

    Returns:
        What stands in ``result.json``. ``nll`` (positive, from K importance samples) and ``elbo``
        (negative) are means in nats an image over the test split; ``protocol`` says how they were
        measured, and ``selected`` of which step. ``steps_per_second`` are gradient steps a second
        without evaluation; ``wall_time`` is everything, earlier parts of a resumed run included,
        in seconds. Where a loss was not finite, ``status`` is ``failed``, with its ``reason``, and
        there is no ``nll``; the last good state is in ``checkpoint.zip``.

    Raises:
        UsageError: a flag is wrong; nothing was written.
        Stopped: a signal came; a checkpoint was written.
    """
    started = time.perf_counter()
    args = args.settled()
    config = args.config()
    images = data.load(config.dataset, args.data_dir)
    config.total_steps(len(images.train))
    _check_buildable(config)
    with opened(args, len(images.train)) as folder:
        if folder.result is not None:
            accepted()
            return folder.result
        torch.set_num_threads(args.threads)
        seed_everything(config.seed)
        plan = Plan(
            device=resolve_device(args.device),
            compile=args.compile,
            checkpoint_minutes=args.checkpoint_minutes,
            keep_checkpoint=args.keep_checkpoint,
        )
        session = Session(config, plan, images, folder, started)
        accepted()
        tell(folder.told)
        result = session.train(progress)
        if result["status"] == "finished":
            result |= session.measure()
        result["wall_time"] = session.wall_time
        session.close(folder.run, result)
        return result


def _check_buildable(config: VAEConfig) -> None:
    """Raises UsageError for what only the model itself can refuse, before a folder is made."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said when the model is built for the run
        vae.build(config)


def main(args: Args) -> int:
    """Prints the run folder, trains, prints the result.

    Returns:
        The exit code: 1 if the run failed, 130 or 143 if a signal stopped it.
    """
    try:
        result = _train_with_bar(args)
    except Stopped as stopped:
        tell(stopped.message)
        return cast(int, stopped.code)
    print(_summary(result), flush=True)
    return 1 if result["status"] == "failed" else 0


def _train_with_bar(args: Args) -> dict[str, Any]:
    shape = "{l_bar}{bar}| {elapsed}<{remaining}"
    with tqdm(total=1.0, bar_format=shape, disable=None, delay=1) as bar:
        return train(args, lambda done: _advance(bar, done), lambda: print(args.folder, flush=True))


def _advance(bar: "tqdm[NoReturn]", done: float) -> None:
    bar.update(done - bar.n)


def _summary(result: dict[str, Any]) -> str:
    if result["status"] == "failed":
        return f"failed: {result['reason']}"
    bits = f", {result['bits_per_dim']:.3f} bits/dim" if result["bits_per_dim"] else ""
    protocol = result["protocol"]
    return (
        f"NLL {result['nll']:.2f} ± {result['nll_standard_error']:.2f}, "
        f"ELBO {result['elbo']:.2f} nats an image{bits} "
        f"(K = {protocol['K']}, {protocol['N']} test images, {protocol['weights']} weights, "
        f"{result['selected']}), "
        f"{result['steps_per_second']:.0f} steps/s, {result['wall_time']:.1f} s"
    )


if __name__ == "__main__":
    _cli.run(main, Args, description=__doc__)
