"""Draw the figures of docs/weight_norm.md and print the numbers that the page quotes.

    python scripts/bench/draw_weight_norm.py

Everything is computed here, on one core, in about a minute: one unit with two inputs, and small
networks that learn to tell scikit-learn's 8×8 digits apart. These are pictures of how the norms
behave, not a comparison of what they are worth; that is what ``scripts/compare.py`` is for.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from scripts import _cli


@dataclass(frozen=True)
class Args:
    """Flags."""

    out: Path = Path("docs/figures")
    """The folder that the figures go to."""
    steps: int = 200
    """Gradient steps of each network."""
    seeds: int = 3
    """Networks for each point of the learning-rate figure."""


if __name__ == "__main__":
    _cli.begin(Args, __doc__)  # before torch is imported

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from wnrl import WNLinear, data_init
from wnrl.networks import mlp
from wnrl.nn.functional import weight_norm
from wnrl.norms import NORMS
from wnrl.optim import project_

BATCH_SIZE = 64
LEARNING_RATES = tuple(float(10**k) for k in np.arange(-3, 0.6, 0.5))
ARMS = ("none", "weight", "weight_mean", "projected", "batch", "layer")
WIDTHS = (64, 128, 256, 512, 1024)
BATCH_SIZES = (2, 4, 8, 16, 32, 64, 128, 256)


def main(args: Args) -> None:
    """Draw each figure and print its numbers."""
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    print(args.out)
    for name, draw in FIGURES.items():
        figure = Figure(figsize=(7.2, 3.3), layout="constrained")
        print(f"\n{name}")
        for line in draw(figure, args):
            print(f"  {line}")
        with rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
            figure.savefig(args.out / f"weight_norm_{name}.svg", metadata={"Date": None})


def draw_geometry(figure: Figure, args: Args) -> Iterator[str]:
    """Draw one unit with two inputs: v walks at right angles to itself, w on the circle of g."""
    start, length = torch.tensor([-0.6, 0.35]), 0.7
    goal, curvature = torch.tensor([1.2, 0.9]), torch.tensor([1.0, 4.0])
    left, right = figure.subplots(1, 2)
    for rate, colour in ((0.1, "#0072B2"), (0.6, "#D55E00")):
        v = start.clone().requires_grad_()
        g = torch.tensor(length, requires_grad=True)
        vs, ws, cosines = [], [], []
        for _ in range(40):
            w = weight_norm(v.unsqueeze(0), g.view(1, 1))[0]
            loss = (curvature * (w - goal).square()).sum() / 2
            grad_v, grad_g = torch.autograd.grad(loss, (v, g))
            vs.append(v.detach().clone())
            ws.append(w.detach().clone())
            cosines.append(F.cosine_similarity(v, grad_v, dim=0).abs().item())
            with torch.no_grad():
                v -= rate * grad_v
                g -= rate * grad_g
        for axes, path in ((left, torch.stack(vs)), (right, torch.stack(ws))):
            axes.plot(*path.T.numpy(), ".-", color=colour, linewidth=1, label=f"step size {rate}")
        yield (
            f"step size {rate}: ‖v‖ {vs[0].norm():.2f} → {vs[-1].norm():.2f}, "
            f"largest |cos(v, ∇v)| {max(cosines):.0e}"
        )
        plain = (1 - rate * curvature) ** 40 * (ws[0] - goal)
        yield (
            f"step size {rate}, after 40 steps: {(w - goal).norm():.1e} from the optimum, "
            f"{plain.norm():.1e} without weight norm"
        )
    right.plot(*goal, "*", color="black", markersize=11, label="optimum")
    angle = np.linspace(0, 2 * np.pi, 100)
    for axes, radius in ((left, start.norm().item()), (right, length)):
        axes.plot(radius * np.cos(angle), radius * np.sin(angle), ":", color="#999999", linewidth=1)
        axes.set_aspect("equal")
    left.set_title("v: each step is at right angles to v, so ‖v‖ grows", fontsize=9)
    right.set_title("w = g v/‖v‖: turns with v, lengthens with g", fontsize=9)
    right.legend(frameon=False, fontsize=8)


def draw_lengths(figure: Figure, args: Args) -> Iterator[str]:
    """Draw how ‖v‖ grows, and how far Adam turns v in one step."""
    left, right = figure.subplots(1, 2)
    styles = {0.1: ":", 0.3: "--", 1.0: "-"}
    for norm, rate in itertools.product(("none", "weight"), styles):
        net = network(norm, 0)
        lengths, steps = follow(net, torch.optim.SGD(net.parameters(), lr=rate), args.steps)
        if norm == "weight":
            left.plot(lengths, styles[rate], color=NORMS[norm].colour, label=f"SGD, lr {rate:g}")
            yield f"SGD, lr {rate:g}: mean ‖v‖ {lengths[0]:.3f} → {lengths[-1]:.3f}"
        first, last = np.median(steps[:20]), np.median(steps[-50:])
        yield (
            f"{norm}, SGD, lr {rate:g}: median ‖Δw‖/‖w‖ {first:.1e} in steps 1–20, "
            f"{last:.1e} in the last 50"
        )
    for rate, style in ((1e-3, "--"), (1e-2, "-")):
        net = network("weight", 0)
        lengths, _ = follow(net, torch.optim.Adam(net.parameters(), lr=rate), args.steps)
        left.plot(lengths, style, color="#D55E00", label=f"Adam, lr {rate:g}")
        yield f"Adam, lr {rate:g}: mean ‖v‖ {lengths[0]:.3f} → {lengths[-1]:.3f}"
    for std, label in ((None, "v := w (torch's default)"), (0.05, "v_init_std=0.05")):
        turns = [adam_step(width, std) for width in WIDTHS]
        right.plot(WIDTHS, turns, ".-", label=label)
        shown = ", ".join(f"{turn:.0f}" for turn in turns)
        yield f"first step of Adam, {label}: ‖Δv‖/‖v‖ = {shown} · lr for {WIDTHS} inputs"
    left.set_ylabel("mean ‖v‖, second layer")
    right.set_ylabel("Adam's first step: ‖Δv‖/‖v‖ / lr")
    right.set_xscale("log", base=2)
    right.set_ylim(bottom=0)
    finish(left, "gradient step")
    finish(right, "inputs of the layer")


def follow(net: Any, optimizer: Optimizer, steps: int) -> tuple[list[float], list[float]]:
    """Return the mean length of v's rows, or else w's, and the relative step of w, in layer 2."""
    lengths, relative = [], []
    before = net[2].weight.detach().clone()
    direction = dict(net.named_parameters()).get("2.weight_v", before)
    lengths.append(direction.norm(dim=1).mean().item())
    for _ in train(net, optimizer, steps, seed=0):
        after = net[2].weight.detach().clone()
        relative.append(((after - before).norm() / before.norm()).item())
        lengths.append(direction.norm(dim=1).mean().item())
        before = after
    return lengths, relative


def adam_step(width: int, std: float | None) -> float:
    """Return ‖Δv‖/‖v‖ of Adam's first step over its learning rate, averaged over units."""
    torch.manual_seed(0)
    layer = WNLinear(width, 64, v_init_std=std)
    before, rate = layer.weight_v.detach().clone(), 1e-4
    optimizer = torch.optim.Adam(layer.parameters(), lr=rate)
    layer(torch.randn(32, width)).square().mean().backward()
    optimizer.step()
    change = (layer.weight_v.detach() - before).norm(dim=1) / before.norm(dim=1)
    return change.mean().item() / rate


def draw_learning_rates(figure: Figure, args: Args) -> Iterator[str]:
    """Draw where each arm still learns: training loss after a fixed number of steps."""
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, with_init in ((left, False), (right, True)):
        for norm in ARMS:
            runs = itertools.product(LEARNING_RATES, range(args.seeds))
            results = [final_loss(norm, *run, with_init, args.steps) for run in runs]
            losses = np.array(results).reshape(len(LEARNING_RATES), -1)
            middle = np.median(losses, 1)
            colour = NORMS[norm].colour
            axes.plot(LEARNING_RATES, middle, ".-", color=colour, label=norm, linewidth=1.2)
            axes.fill_between(
                LEARNING_RATES, losses.min(1), losses.max(1), color=colour, alpha=0.15, linewidth=0
            )
            at = int(middle.argmin())
            wide = [rate for rate, loss in zip(LEARNING_RATES, middle, strict=True) if loss < 0.3]
            reach = f"{wide[0]:.2g} to {wide[-1]:.2g}" if wide else "nowhere"
            yield (
                f"{norm}{' + data_init' if with_init else ''}: best loss {middle[at]:.3f} at lr "
                f"{LEARNING_RATES[at]:.2g}; below 0.3 for lr {reach}"
            )
        axes.set_title("with data_init" if with_init else "torch's initialisation", fontsize=9)
        axes.set_xscale("log")
        axes.set_yscale("log")
        finish(axes, "learning rate of SGD", legend=None if with_init else "lower left")
    left.set_ylabel(f"training loss after {args.steps} steps (nats)")


def draw_batch_noise(figure: Figure, args: Args) -> Iterator[str]:
    """Draw how much the other examples of a minibatch change the output for one example."""
    axes = figure.subplots()
    pixels, _ = digits()
    for norm in ("weight", "layer", "mean", "weight_mean", "batch"):
        net = network(norm, 0)
        for _ in train(net, torch.optim.SGD(net.parameters(), lr=0.1), args.steps, seed=0):
            pass
        generator = torch.Generator().manual_seed(0)
        spreads = []
        for size in BATCH_SIZES:
            outputs = []
            for _ in range(200):
                rest = torch.randint(1, len(pixels), (size - 1,), generator=generator)
                outputs.append(net(torch.cat([pixels[:1], pixels[rest]]))[0].detach())
            stacked = torch.stack(outputs)
            spreads.append((stacked.std(0).norm() / stacked.mean(0).norm()).item())
        axes.plot(BATCH_SIZES, spreads, ".-", color=NORMS[norm].colour, label=norm)
        pairs = zip(BATCH_SIZES[1::2], spreads[1::2], strict=True)
        shown = ", ".join(f"{spread:.2g} at {size}" for size, spread in pairs)
        yield f"{norm}: relative spread of one example's output {shown}"
    axes.set_xscale("log", base=2)
    axes.set_yscale("symlog", linthresh=1e-2)
    axes.set_ylim(-1e-3, 2)
    axes.set_ylabel("relative spread of the output\nfor one example, in training mode")
    finish(axes, "batch size")


def network(norm: str, seed: int) -> nn.Sequential:
    """Return 64 → 64 → 64 → 64 → 10 with ReLU; the same draw for every norm."""
    torch.manual_seed(seed)
    return mlp(64, (64, 64, 64), 10, norm=norm)


def digits() -> tuple[Tensor, Tensor]:
    """Return 1797 images ``(N, 64)`` with values in [0, 1], and their labels ``(N,)``."""
    data, target = load_digits(return_X_y=True)
    return torch.tensor(data, dtype=torch.float32) / 16, torch.tensor(target)


def train(net: nn.Module, optimizer: Optimizer, steps: int, seed: int) -> Iterator[float]:
    """Yield the cross-entropy (nats) of each minibatch, while it learns."""
    pixels, labels = digits()
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        batch = torch.randint(len(pixels), (BATCH_SIZE,), generator=generator)
        loss = F.cross_entropy(net(pixels[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        project_(net)
        yield loss.item()


def final_loss(norm: str, rate: float, seed: int, with_init: bool, steps: int) -> float:
    """Return the mean loss of the last 20 steps; at most log 10, what a constant answer costs."""
    net = network(norm, seed)
    if with_init:
        pixels, _ = digits()
        data_init(net, pixels[:256])
    optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9)
    losses = list(train(net, optimizer, steps, seed))
    worst = float(np.log(10))
    return min(float(np.mean(losses[-20:])), worst) if np.isfinite(losses).all() else worst


def finish(axes: Axes, xlabel: str, legend: Literal["best", "lower left"] | None = "best") -> None:
    """Add a label and a legend (at that place, or none) and no box."""
    axes.set_xlabel(xlabel)
    if legend is not None:
        axes.legend(frameon=False, fontsize=8, loc=legend)
    axes.spines[["top", "right"]].set_visible(False)


FIGURES = {
    "geometry": draw_geometry,
    "lengths": draw_lengths,
    "learning_rates": draw_learning_rates,
    "batch_noise": draw_batch_noise,
}

if __name__ == "__main__":
    _cli.run(main, Args, description=__doc__)
