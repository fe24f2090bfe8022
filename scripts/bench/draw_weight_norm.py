"""Print the numbers that docs/weight_norm.md quotes, and draw its figures.

    python scripts/bench/draw_weight_norm.py

Everything is computed here, on one core, in about a minute: one unit with two inputs, and small
networks that learn to tell scikit-learn's 8×8 digits apart. These are pictures of how the norms
behave, not a comparison of what they are worth; that is what ``scripts/compare.py`` is for.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise
from typing import Any

from scripts import _cli
from wnrl.limits import Limited, Whole


@dataclass(frozen=True)
class Args(Limited):
    """Flags."""

    out: Path = Path("docs/figures")
    """The folder that the figures go to."""
    steps: Whole = 200
    """Gradient steps of each network."""
    seeds: Whole = 3
    """Networks for each point of the learning-rate figure."""


if __name__ == "__main__":
    _cli.begin(Args, __doc__)  # before torch is imported

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, Optimizer

from wnrl import WNLinear, data_init
from wnrl.networks import mlp
from wnrl.nn.functional import weight_norm
from wnrl.norms import NORMS
from wnrl.optim import project_

RATES = 10.0 ** np.arange(-3, 0.6, 0.5)
ARMS = ("none", "weight", "weight_mean", "projected", "batch", "layer")
WIDTHS = (64, 128, 256, 512, 1024)
BATCH_SIZES = (2, 4, 8, 16, 32, 64, 128, 256)
STYLE: Any = {
    "figure.figsize": (7.2, 3.3), "figure.constrained_layout.use": True,
    "axes.titlesize": 9, "legend.fontsize": 8, "legend.frameon": False,
    "svg.fonttype": "none", "svg.hashsalt": "wnrl",  # text as text, the same bytes each time
}  # fmt: skip


def main(args: Args) -> None:
    """Print the numbers of each part; two parts draw a figure as well."""
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    print(args.out)
    for part in (geometry, lengths, learning_rates, batch_noise):
        with rc_context(STYLE):
            print(f"\n{part.__name__}", *part(args), sep="\n  ")


def geometry(args: Args) -> Iterator[str]:
    """Draw one unit with two inputs: v walks at right angles to itself, w on the circle of g."""
    goal, curvature = torch.tensor([1.2, 0.9]), torch.tensor([1.0, 4.0])
    figure = Figure()
    left, right = figure.subplots(1, 2)
    for rate in (0.1, 0.6):
        v = torch.tensor([-0.6, 0.35], requires_grad=True)
        g = torch.tensor(0.7, requires_grad=True)
        optimizer, vs, ws, cosines = SGD([v, g], lr=rate), [], [], []
        for _ in range(40):
            w = weight_norm(v.unsqueeze(0), g.view(1, 1))[0]
            optimizer.zero_grad()
            (curvature * (w - goal).square()).sum().div(2).backward()
            vs.append(v.detach().clone())
            ws.append(w.detach())
            cosines.append(F.cosine_similarity(v, v.grad, dim=0).abs().item())  # type: ignore[arg-type]
            optimizer.step()
        for axes, path in ((left, vs), (right, ws)):
            axes.plot(*torch.stack(path).T.numpy(), ".-", label=f"step size {rate}")
        plain = (1 - rate * curvature) ** 40 * (ws[0] - goal)
        yield (
            f"step size {rate}: ‖v‖ {vs[0].norm():.2f} → {vs[-1].norm():.2f}, largest |cos(v, ∇v)| "
            f"{max(cosines):.0e}; after 40 steps {(ws[-1] - goal).norm():.1e} from the optimum, "
            f"{plain.norm():.1e} without weight norm"
        )
    right.plot(*goal, "*", color="black", markersize=11, label="optimum")
    for axes, path in ((left, vs), (right, ws)):
        axes.add_patch(Circle((0, 0), path[0].norm().item(), fill=False, linestyle=":"))
        axes.set_aspect("equal")
    left.set_title("v: each step is at right angles to v, so ‖v‖ grows")
    right.set_title("w = g v/‖v‖: turns with v, lengthens with g")
    right.legend()
    figure.savefig(args.out / "weight_norm_geometry.svg", metadata={"Date": None})


def lengths(args: Args) -> Iterator[str]:
    """Tell how ‖v‖ grows, and how far Adam turns v in one step."""
    for kind, rate in ((SGD, 0.1), (SGD, 0.3), (SGD, 1.0), (Adam, 1e-3), (Adam, 1e-2)):
        grown, steps = follow("weight", kind, rate, args.steps)
        _, plain = follow("none", kind, rate, args.steps)
        name = f"{kind.__name__}, lr {rate:g}"
        first, other = np.median(steps[:20]), np.median(plain[:20])
        yield f"{name}: mean ‖v‖ {grown[0]:.3f} → {grown[-1]:.3f}"
        yield f"{name}: median ‖Δw‖/‖w‖ in steps 1–20 {first:.1e}, of none {other:.1e}"
    for std, name in ((None, "v := w (torch's default)"), (0.05, "v_init_std=0.05")):
        turns = [adam_step(width, std) for width in WIDTHS]
        yield f"Adam's first step, {name}: ‖Δv‖/‖v‖ / lr {np.round(turns)} for {WIDTHS} inputs"


def follow(norm: str, kind: type[Any], rate: float, steps: int) -> tuple[list[float], list[float]]:
    """Return the mean length of v's rows, or else w's, and the relative step of w, in layer 2."""
    net: Any = network(norm, 0)
    losses = train(net, kind(net.parameters(), lr=rate), steps, seed=0)
    lengths, weights = [], []
    for _ in chain((None,), losses):  # before the first step, and behind each
        direction = getattr(net[2], "weight_v", net[2].weight)
        lengths.append(direction.norm(dim=1).mean().item())
        weights.append(net[2].weight.detach().clone())
    return lengths, [((b - a).norm() / a.norm()).item() for a, b in pairwise(weights)]


def adam_step(width: int, std: float | None) -> float:
    """Return ‖Δv‖/‖v‖ of Adam's first step over its learning rate, averaged over units."""
    torch.manual_seed(0)
    layer = WNLinear(width, 64, v_init_std=std)
    before, rate = layer.weight_v.detach().clone(), 1e-4
    optimizer = Adam(layer.parameters(), lr=rate)
    layer(torch.randn(32, width)).square().mean().backward()
    optimizer.step()
    change = (layer.weight_v.detach() - before).norm(dim=1) / before.norm(dim=1)
    return change.mean().item() / rate


def learning_rates(args: Args) -> Iterator[str]:
    """Draw where each arm still learns: training loss after a fixed number of steps."""
    figure = Figure()
    panels = figure.subplots(1, 2, sharey=True)
    titles = {False: "torch's initialisation", True: "with data_init"}
    seeds, steps = range(args.seeds), args.steps
    for axes, (initialise, title) in zip(panels, titles.items(), strict=True):
        axes.set(xscale="log", yscale="log", xlabel="learning rate of SGD", title=title)
        for norm in ARMS:
            loss = partial(final_loss, norm, initialise=initialise, steps=steps)
            losses = np.array([[loss(rate, seed) for seed in seeds] for rate in RATES])
            middle, colour = np.median(losses, 1), NORMS[norm].colour
            axes.plot(RATES, middle, ".-", color=colour, label=norm)
            axes.fill_between(RATES, losses.min(1), losses.max(1), color=colour, alpha=0.15)
            best, low = RATES[middle.argmin()], RATES[middle < 0.3].round(4)
            yield f"{norm}, {title}: {middle.min():.3f} at lr {best:.2g}; below 0.3 at {low}"
    panels[0].set_ylabel(f"training loss after {steps} steps (nats)")
    panels[0].legend(loc="lower left")
    figure.savefig(args.out / "weight_norm_learning_rates.svg", metadata={"Date": None})


def final_loss(norm: str, rate: float, seed: int, initialise: bool, steps: int) -> float:
    """Return the mean loss of the last 20 steps; at most log 10, what a constant answer costs."""
    net = network(norm, seed)
    if initialise:
        data_init(net, digits()[0][:256])
    losses = list(train(net, SGD(net.parameters(), lr=rate, momentum=0.9), steps, seed))
    return float(np.nanmin([np.mean(losses[-20:]), np.log(10)]))


def batch_noise(args: Args) -> Iterator[str]:
    """Tell how much the other examples of a minibatch change the output for one example."""
    pixels, _ = digits()
    for norm in ("weight", "layer", "mean", "weight_mean", "batch"):
        net = network(norm, 0)
        list(train(net, SGD(net.parameters(), lr=0.1), args.steps, seed=0))
        generator, spreads = torch.Generator().manual_seed(0), []
        for size in BATCH_SIZES:
            outputs = []
            for _ in range(200):
                rest = torch.randint(1, len(pixels), (size - 1,), generator=generator)
                outputs.append(net(torch.cat([pixels[:1], pixels[rest]]))[0].detach())
            std, mean = torch.std_mean(torch.stack(outputs), 0)
            spreads.append((std.norm() / mean.norm()).item())
        yield f"{norm}: relative spread {np.round(spreads, 3)} at batch sizes {BATCH_SIZES}"


def network(norm: str, seed: int) -> nn.Sequential:
    """Return 64 → 64 → 64 → 64 → 10 with ReLU; the same draw for every norm."""
    torch.manual_seed(seed)
    return mlp(64, (64, 64, 64), 10, norm=norm)


def digits() -> tuple[Tensor, Tensor]:
    """Return 1797 images ``(N, 64)`` with values in [0, 1], and their labels ``(N,)``."""
    data, target = load_digits(return_X_y=True)
    return torch.tensor(data, dtype=torch.float32) / 16, torch.tensor(target)


def train(net: nn.Module, optimizer: Optimizer, steps: int, seed: int) -> Iterator[float]:
    """Yield the cross-entropy (nats) of each minibatch of 64, while it learns."""
    pixels, labels = digits()
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        batch = torch.randint(len(pixels), (64,), generator=generator)
        loss = F.cross_entropy(net(pixels[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        project_(net)
        yield loss.item()


if __name__ == "__main__":
    _cli.run(main, Args, description=__doc__)
