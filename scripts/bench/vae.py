"""Time training and measuring a VAE against a plain PyTorch loop with a DataLoader.

    python scripts/bench/vae.py
    python scripts/bench/vae.py --device cuda --compile --steps 600

Three arms have the same sizes and batches: ``none`` and the chosen norm, trained by
``wnrl.vae.Trainer``, and ``loop``, which is what a tutorial writes: a DataLoader over images that
are turned into tensors and binarised one by one, as torchvision's transforms do, an ``nn.Module``
and Adam. They run in segments that alternate and change places from round to round; the first
round is warm-up. What counts is the ratio *within* a round, in CPU seconds of this process, or
seconds on a GPU: the table shows images a second and the median ratio with half the distance
between its quartiles. Images are random, which takes as long as with real ones.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Annotated

from scripts import _cli
from wnrl.limits import Limited, NormKey, TwoOrMore, Whole, one_of

MODELS = ("mlp", "conv")
FOREVER = 10**9
ROWS = 256  # of a pass, where memory is measured
Arm = Callable[[], object]


@dataclass(frozen=True)
class Args(Limited):
    """Flags."""

    model: Annotated[str, one_of(MODELS)] = "mlp"
    """mlp or conv, with the preset for mnist."""
    norm: NormKey = "weight"
    """Norm that is compared with none."""
    steps: Whole = 60
    """Gradient steps of a segment."""
    images: TwoOrMore = 100
    """Images of a segment that measures."""
    n_samples: Whole = 100
    """K, importance samples an image, there."""
    rounds: Whole = 7
    """Segments of each arm that count."""
    device: str = "cpu"
    """cpu, cuda or cuda:<k>."""
    compile: bool = False
    """Compile our models for training."""


if __name__ == "__main__":
    _cli.begin(Args, __doc__)  # before torch is imported

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from scripts.bench import _rounds
from scripts.bench._rounds import CPU, WALL, cell, clocked, most_memory
from wnrl import vae
from wnrl.compiling import compiled
from wnrl.data import Images


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images one by one with their labels, as torchvision's MNIST and ToTensor give them.

    What torchvision does is written out: a PIL image, an array of it, and a tensor of floats;
    behind it a Bernoulli draw.
    """

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels[:, 0]

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return one binary image, ``(1, H, W)``, and its label."""
        picture = Image.fromarray(self.pixels[index].numpy())
        width, height = picture.size
        x = torch.from_numpy(np.array(picture, np.uint8, copy=True)).view(height, width, 1)
        x = x.permute(2, 0, 1).contiguous().to(torch.get_default_dtype()).div(255)
        return torch.bernoulli(x), 0


class PlainVAE(nn.Module):
    """The same sizes as ours, of plain layers, with the loss of a tutorial."""

    def __init__(self, ours: vae.VAE) -> None:
        super().__init__()
        self.encoder, self.decoder = ours.encoder, ours.decoder
        self.flat = isinstance(ours, vae.MLPVAE)

    def terms(self, x: Tensor, n_samples: int) -> tuple[Tensor, ...]:
        """Return the reconstruction ``(K, B)``, mu, log_var ``(B, Z)`` and z ``(K, B, Z)``."""
        mu, log_var = self.encoder(x.flatten(1) if self.flat else x).chunk(2, 1)
        z = mu + (0.5 * log_var).exp() * torch.randn(n_samples, *mu.shape, device=x.device)
        logits = self.decoder(z.flatten(0, 1)).view(n_samples, *x.shape)
        errors = F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none")
        return -errors.sum((2, 3, 4)), mu, log_var, z

    def loss(self, x: Tensor) -> Tensor:
        """Return −ELBO, the mean over a batch."""
        reconstruction, mu, log_var, _ = self.terms(x, 1)
        kl = -0.5 * (1 + log_var - mu.square() - log_var.exp()).sum(1)
        return (kl - reconstruction[0]).mean()

    def log_p(self, x: Tensor, n_samples: int) -> Tensor:
        """Return the importance-weighted bound, ``(B,)``."""
        reconstruction, mu, log_var, z = self.terms(x, n_samples)
        q = torch.distributions.Normal(mu, (0.5 * log_var).exp())
        prior = torch.distributions.Normal(0.0, 1.0)
        log_w = reconstruction + (prior.log_prob(z) - q.log_prob(z)).sum(-1)
        return log_w.logsumexp(0) - np.log(n_samples)


def random_images(args: Args) -> Images:
    """Return as many random images as an epoch of MNIST has, with much black as there."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (60_000, 1, 28, 28), generator=generator, dtype=torch.uint8)
    pixels = noise * (torch.rand(noise.shape, generator=generator) < 0.2)
    return Images("mnist", pixels, pixels[:100], pixels[: args.images], 256, "random")


def our_arms(args: Args, norm: str, images: Images, device: torch.device) -> dict[str, Arm]:
    """Return segments of training and of measuring with one norm."""
    config = vae.preset(args.model, "mnist", norm=norm, n_steps=FOREVER, n_logs=1)
    model = vae.build(config, images).to(device)
    forward = compiled(model.forward, args.model) if args.compile else None
    trainer = vae.Trainer(model, images, config, forward)
    protocol = vae.Protocol("mnist", n_samples=args.n_samples)
    return {
        "train": partial(_rounds.train_vae, trainer, args.steps),
        "measure": partial(vae.nll, model, images, protocol),
    }


def loop_arms(args: Args, images: Images, device: torch.device) -> dict[str, Arm]:
    """Return the same segments as a tutorial would write them."""
    preset = vae.preset(args.model, "mnist", norm="none")
    model = PlainVAE(vae.build(preset, images)).to(device)
    kind = {"adam": torch.optim.Adam, "adamax": torch.optim.Adamax}[preset.optimizer]
    optimizer = kind(model.parameters(), lr=preset.learning_rate)
    loader = DataLoader(Pictures(images.train), preset.batch_size, shuffle=True, drop_last=True)
    test = DataLoader(Pictures(images.test), batch_size=20)
    batches = (x for _ in count() for x, _ in loader)  # epoch behind epoch

    def train() -> None:
        model.train()
        for _ in range(args.steps):
            loss = model.loss(next(batches).to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    @torch.no_grad()
    def measure() -> None:
        model.eval()
        for x, _ in test:
            model.log_p(x.to(device), args.n_samples).sum().item()

    return {"train": train, "measure": measure}


def rows(task: str, n_images: int, seconds: Mapping[str, np.ndarray]) -> Iterator[tuple[str, ...]]:
    """Yield the rows of one task: the speed of each arm, and over those of two others."""
    for name, own in seconds.items():
        ratios = (cell(seconds[other], own) for other in ("none", "loop"))
        yield task, name, f"{n_images / np.median(own):.0f}", *ratios


def memory(args: Args, images: Images, device: torch.device, arms: dict[str, Arm]) -> str:
    """Tell how much peak memory grows with more training, and with more K than fit in a pass."""
    before = most_memory(device)
    for _ in range(3):
        arms["train"]()
    trained = most_memory(device)
    model = vae.build(vae.preset(args.model, "mnist", norm=args.norm), images).to(device)
    few, peaks = replace(images, test=images.test[:2]), []
    for n_samples in (ROWS, 4 * ROWS):
        vae.nll(model, few, vae.Protocol("mnist", n_samples=n_samples), rows=ROWS)
        peaks.append(most_memory(device))
    return (
        f"peak memory {before:.0f} MB; three more segments of training add {trained - before:.0f}, "
        f"K = {4 * ROWS} instead of {ROWS} adds {peaks[1] - peaks[0]:.0f}"
    )


def main(args: Args) -> None:
    """Measure, and print the table."""
    batch = vae.preset(args.model, "mnist").batch_size
    device = _rounds.prepare(args.device, 1, f"{args.model}, B = {batch}")
    clock, images = WALL if device.type == "cuda" else CPU, random_images(args)
    arms = {norm: our_arms(args, norm, images, device) for norm in ("none", args.norm)}
    arms["loop"] = loop_arms(args, images, device)

    def lines(task: str, label: str, n_images: int) -> Iterator[tuple[str, ...]]:
        segments = {name: partial(clocked, arm[task], device) for name, arm in arms.items()}
        times = _rounds.interleaved(segments, args.rounds)
        return rows(label, n_images, {name: each[:, clock] for name, each in times.items()})

    trained = lines("train", "train", args.steps * batch)
    measured = lines("measure", f"measure, K = {args.n_samples}", args.images)
    names = ("task", "arm", "images a second", "speed / none", "speed / loop")
    _rounds.table(names, (*trained, *measured))
    print(memory(args, images, device, arms[args.norm]))


if __name__ == "__main__":
    _cli.run(main, Args, description=__doc__)
