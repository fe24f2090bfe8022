"""Time weight-normalized layers against plain ones and against the alternatives.

    python scripts/bench/layers.py --threads 2

Every alternative runs the same network on the same input, interleaved in one process: a round
times each of them once, in an order that rotates, and what counts is the ratio to plain *within* a
round. The tables show the median of the ratios with half the distance between their quartiles,
for a forward without grad and for a whole train step (forward, backward, Adam), and the bytes that
a forward keeps for the backward, parameters and input left out. Each optimizer has its own default
implementation: on a CPU torch's Adam loops, as in SB3, and WNAdam is fused. Times are those of the
CPU where one thread computes, so that a busy machine changes little, and else those of a clock.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from scripts import _cli
from wnrl.errors import UsageError
from wnrl.limits import Limited, Positive, Threads


@dataclass(frozen=True)
class Args(Limited):
    """Flags."""

    device: str = "cpu"
    """auto, cpu, cuda or cuda:<k>."""
    threads: Threads = 2
    """CPU threads."""
    seconds: Positive = 5.0
    """Time for each row of each table."""
    only: str = ""
    """Rows whose name contains this; all by default."""


if __name__ == "__main__":
    _cli.begin(Args, __doc__)  # before torch is imported

import numpy as np
import torch
from torch import Tensor, nn

from scripts.bench._rounds import CPU, WALL, cell, clocked, interleaved, prepare, ratio, table
from wnrl import convert, frozen, shared_weights
from wnrl.networks import cnn, mlp
from wnrl.optim import WNAdam

OBS, ACTIONS = 32, 8
TABLES = FORWARD, TRAIN, KEPT = "Forward without grad", "Train step", "Kept for the backward"


@dataclass(frozen=True)
class Workload:
    """One row: a network, its input, and how it is called."""

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    call: Callable[[nn.Module, Tensor], Tensor] = lambda net, x: net(x)


def lstm() -> nn.Module:
    """Return a recurrent policy's core, in a container so that it can be converted."""
    return nn.ModuleDict({"lstm": nn.LSTM(16, 128)})


def whole_sequence(net: Any, x: Tensor) -> Tensor:
    """Call once for all time steps."""
    return net["lstm"](x)[0]


def step_by_step(net: Any, x: Tensor) -> Tensor:
    """Call once a time step, as an unrolled loop does; with weights shared where they can be."""
    outputs, states = [], None
    with shared_weights(net):
        for step in x.split(1):
            out, states = net["lstm"](step, states)
            outputs.append(out)
    return torch.cat(outputs)


WORKLOADS = [
    *(
        Workload(
            f"MLP 3x{width}, batch {batch}",
            partial(mlp, OBS, [width] * 3, ACTIONS, activation="tanh"),
            (batch, OBS),
        )
        for width in (64, 256, 1024)
        for batch in (1, 8, 64, 256)
    ),
    Workload("Nature CNN, batch 32", partial(cnn, (4, 84, 84), ACTIONS), (32, 4, 84, 84)),
    Workload("LSTM 16-128, 64 steps, batch 8", lstm, (64, 8, 16), whole_sequence),
    Workload("LSTM 16-128, 64 calls, batch 8", lstm, (64, 8, 16), step_by_step),
]


@dataclass(frozen=True)
class Alternative:
    """One column: what is done to the plain network before it is timed."""

    name: str
    change: Callable[[nn.Module], object] = lambda net: None
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam
    scope: Callable[[nn.Module], AbstractContextManager[None]] = lambda net: nullcontext()
    tables: tuple[str, ...] = TABLES
    """Those that have the column."""
    fits: Callable[[tuple[int, ...]], bool] = lambda shape: True


def by_torch(register: Callable[..., nn.Module]) -> Callable[[nn.Module], None]:
    """Return what puts one of torch's weight norms on every weight of every layer."""

    def change(net: nn.Module) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            for layer in list(net.modules()):
                for name, p in list(layer.named_parameters(recurse=False)):
                    if p.dim() > 1:
                        register(layer, name)

    return change


ALTERNATIVES = [
    Alternative("plain"),
    Alternative("ours", partial(convert, norm="weight")),
    Alternative("ours, frozen", partial(convert, norm="weight"), scope=frozen, tables=(FORWARD,)),
    Alternative("ours, optimizer", optimizer=WNAdam, tables=(TRAIN,)),
    Alternative("parametrization", by_torch(nn.utils.parametrizations.weight_norm)),
    Alternative("legacy hook", by_torch(nn.utils.weight_norm)),
    Alternative("layer norm", partial(convert, norm="layer")),
    Alternative(
        "batch norm",
        partial(convert, norm="batch"),
        fits=lambda shape: shape[0] > 1 and len(shape) != 3,  # no single example and no LSTM
    ),
]


class Candidate:
    """One alternative, built for one workload."""

    def __init__(
        self, workload: Workload, chosen: Alternative, args: Args, device: torch.device
    ) -> None:
        torch.manual_seed(0)
        self.call, self.scope, self.device = workload.call, chosen.scope, device
        self.clock = CPU if device.type == "cpu" and args.threads == 1 else WALL
        self.net = workload.build()
        chosen.change(self.net)
        self.net.to(device)
        self.x = torch.randn(workload.shape, device=device)
        self.optimizer = chosen.optimizer(self.net.parameters(), lr=1e-4)

    def step(self) -> None:
        """Take a train step: forward, backward and Adam."""
        self.optimizer.zero_grad()
        self.call(self.net, self.x).square().mean().backward()
        self.optimizer.step()

    def timed(self, mode: str, n_calls: int) -> float:
        """Return the seconds of a forward or of a train step, over several of them."""
        training = mode == TRAIN
        function = self.step if training else partial(self.call, self.net, self.x)
        self.net.train(training)
        scope = nullcontext() if training else self.scope(self.net)
        with torch.set_grad_enabled(training), scope:
            function()  # where a scope computes its weights
            times = clocked(lambda: [function() for _ in range(n_calls)], self.device)
        return times[self.clock] / n_calls

    def kept_bytes(self) -> int:
        """Return what one forward keeps for the backward, without parameters and input."""
        kept: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            self.call(self.net, self.x).square().mean()
        for tensor in (*self.net.parameters(), self.x):
            kept.pop(tensor.untyped_storage().data_ptr(), None)
        return sum(kept.values())


def measure(workload: Workload, args: Args, device: torch.device) -> dict[str, dict[str, Any]]:
    """Return what each table has: the seconds of a mode by round, or bytes, by alternative."""
    print(workload.name, file=sys.stderr)
    fitting = [chosen for chosen in ALTERNATIVES if chosen.fits(workload.shape)]
    built = [(chosen, Candidate(workload, chosen, args, device)) for chosen in fitting]
    results: dict[str, dict[str, Any]] = {}
    for title in TABLES:
        columns = {chosen.name: each for chosen, each in built if title in chosen.tables}
        if title == KEPT:
            results[title] = {name: each.kept_bytes() for name, each in columns.items()}
            continue
        plain = columns["plain"].timed(title, 10)
        n_calls = max(1, round(2e-3 / plain))  # 2 ms: above the clock's grain
        arms = {name: partial(each.timed, title, n_calls) for name, each in columns.items()}
        results[title] = interleaved(arms, rounds=9, warm_up=3, seconds=args.seconds)
    return results


def show(mode: str, by_row: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Print the table of one mode, with geometric means at its end."""
    names = [chosen.name for chosen in ALTERNATIVES[1:] if mode in chosen.tables]

    def mean(name: str) -> str:
        ratios = [ratio(t[name], t["plain"])[0] for t in by_row.values() if name in t]
        return f"{np.exp(np.mean(np.log(ratios))):.3f}" if ratios else "–"

    lines = []
    for row, times in by_row.items():
        cells = [cell(times[n], times["plain"]) if n in times else "–" for n in names]
        lines.append([row, f"{np.median(times['plain']) * 1e6:.0f}", *cells])
    table(("", "plain, µs", *names), [*lines, ["**geometric mean**", "", *map(mean, names)]])


def main(args: Args) -> None:
    """Measure every row, then print the tables."""
    chosen = [workload for workload in WORKLOADS if args.only in workload.name]
    if not chosen:
        raise UsageError(f"only must be part of the name of a row, got {args.only!r}")
    device = prepare(args.device, args.threads)
    measured = {workload.name: measure(workload, args, device) for workload in chosen}
    for mode in (FORWARD, TRAIN):
        print(f"{mode}: time over plain, median ± half the quartile distance\n")
        show(mode, {row: results[mode] for row, results in measured.items()})
        print()
    print(f"{KEPT}\n")
    names = [column.name for column in ALTERNATIVES if KEPT in column.tables]
    kept = {row: results[KEPT] for row, results in measured.items()}
    lines = (
        [row, *(f"{each[name] / 1e3:.0f}" if name in each else "–" for name in names)]
        for row, each in kept.items()
    )
    table(("kB kept", *names), lines)


if __name__ == "__main__":
    _cli.run(main, Args, description=__doc__)
