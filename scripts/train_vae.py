"""Train one variational autoencoder and measure its likelihood.

    python scripts/train_vae.py --model mlp --dataset digits --norm weight --seed 0

The settings are those of ``wnrl.vae.PRESETS``; every one of them is a flag. The run folder gets
``config.json``, ``versions.json``, TensorBoard events, ``model.pt``, ``samples.png``,
``per_image_nll.npy`` (nats, in the order of the test split) and, last, ``result.json``. With
``--resume`` a run that was stopped goes on from its last checkpoint, on the CPU with the same bits
as if it had not been stopped, and a finished one goes on to more ``--epochs``. Called again with
the same flags, a finished run shows its result.
"""

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts import _cli


@dataclass(frozen=True)
class Args:
    """Flags; those that are None take the preset's value."""

    model: str = "mlp"
    """The kind of VAE: mlp, mlp2, conv, conv_iaf, draw, draw_attention or frames."""
    dataset: str = "digits"
    """digits, mnist, mnist-static, omniglot-small, fashion-mnist, cifar10 or frames:<env id>."""
    norm: str = "weight"
    """Normalisation: none, weight, weight_mean, mean, projected, batch, batch_renorm, layer, rms or
    spectral; a key of wnrl.NORMS."""
    seed: int = 0
    """Seed of the weights and of everything random in training."""
    preset: str = "default"
    """Which settings the other flags change: default, 150 (epochs, of MLPs) or long (for a GPU)."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<k>."""
    run_dir: Path | None = None
    """The run's own folder; by default runs/single/<dataset>/<model>/<norm>/seed<k>."""
    threads: int | None = None
    """CPU threads of torch; 1 if not given, the fastest for small networks."""
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
        """The run's folder."""
        task = self.dataset.replace("/", "_").replace(":", "_")
        return self.run_dir or Path("runs/single", task, self.model, self.norm, f"seed{self.seed}")

    def config(self) -> Any:
        """Return the ``VAEConfig``: the preset with what was asked for in its place."""
        from wnrl.vae import VAEConfig, presets

        asked = {field.name: getattr(self, field.name) for field in fields(VAEConfig)}
        return presets.configured(asked.pop("model"), asked.pop("dataset"), self.preset, **asked)


def main(args: Args) -> int:
    """Print the run folder, train, print the result; return 1 if the run failed."""
    from wnrl.runs import Options
    from wnrl.vae.run import Machine, in_words, train_in

    machine = Machine(args.device, args.threads, args.compile)
    options = Options(args.resume, args.checkpoint_minutes, args.keep_checkpoint)
    where = (args.folder, args.config(), machine, args.data_dir)
    with _cli.progress_bar() as progress:
        result = train_in(*where, options, progress, lambda: print(args.folder, flush=True))
    print(in_words(result), flush=True)
    return 1 if result["status"] == "failed" else 0


if __name__ == "__main__":
    _cli.run(main, Args, description=__doc__)
