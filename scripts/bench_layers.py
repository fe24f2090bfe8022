"""Times weight-normalized layers against plain ones and against the alternatives.

    python scripts/bench_layers.py --threads 2

Every alternative runs the same network on the same input, interleaved in one process: a round
times each of them once, in an order that rotates, and what counts is the ratio to plain *within* a
round. The tables show the median of the ratios with half the distance between their quartiles,
for a forward without grad and for a whole train step (forward, backward, Adam), and the bytes that
a forward keeps for the backward, parameters and input left out. Times a round wide apart mean
a busy machine.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts._interrupt import leave_at_ctrl_c

if __name__ == "__main__":
    leave_at_ctrl_c()  # until _cli.run catches it

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scripts import _cli
from scripts._layers import ALTERNATIVES, WORKLOADS, Alternative, Workload
from wnrl.errors import UsageError, check_choice, check_positive
from wnrl.runs import resolve_device

ADAM: dict[str, dict[str, bool]] = {
    "default": {},
    "loop": {"foreach": False, "fused": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}


@dataclass(frozen=True)
class Args:
    """Flags."""

    device: str = "cpu"
    """auto, cpu, cuda or cuda:<k>; a GPU is timed by its own events."""
    threads: int = 2
    """CPU threads."""
    seconds: float = 5.0
    """Time for each row of each table."""
    adam: str = "default"
    """Adam's implementation: default (each optimizer's own: on a CPU torch's Adam loops, as in
    SB3, and WNAdam is fused), or the same for all: loop, foreach or fused."""
    only: str = ""
    """Rows whose name contains this; all by default."""
    seed: int = 0
    """Seed of weights and inputs."""

    def __post_init__(self) -> None:
        check_positive(threads=self.threads, seconds=self.seconds)
        check_choice("adam", self.adam, ADAM)
        if not any(self.only in workload.name for workload in WORKLOADS):
            raise UsageError(f"only must be part of the name of a row, got {self.only!r}")


class Candidate:
    """One alternative, built for one workload."""

    def __init__(self, workload: Workload, chosen: Alternative, args: Args) -> None:
        torch.manual_seed(args.seed)
        self.name = chosen.name
        self.net = workload.build()
        chosen.change(self.net)
        device = resolve_device(args.device)
        self.net.to(device)
        self.x = torch.randn(workload.shape, device=device)
        self.call = workload.call
        self.scope = chosen.scope
        options: dict[str, Any] = dict(ADAM[args.adam])
        self.optimizer = chosen.optimizer(self.net.parameters(), lr=1e-4, **options)

    def forward(self) -> None:
        """One forward; the caller switches grad off and opens the scope."""
        self.call(self.net, self.x)

    def train_step(self) -> None:
        """Forward, backward and Adam."""
        self.optimizer.zero_grad()
        self.call(self.net, self.x).square().mean().backward()
        self.optimizer.step()

    def kept_bytes(self) -> int:
        """What one forward keeps for the backward, without parameters and input."""
        known = {t.untyped_storage().data_ptr() for t in (*self.net.parameters(), self.x)}
        kept: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in known:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = self.call(self.net, self.x).square().mean()
        total = sum(kept.values())
        loss.backward()
        return total


@contextmanager
def _forward_mode(candidate: Candidate) -> Iterator[Callable[[], None]]:
    candidate.net.eval()
    with torch.no_grad(), candidate.scope(candidate.net):
        yield candidate.forward


@contextmanager
def _train_mode(candidate: Candidate) -> Iterator[Callable[[], None]]:
    candidate.net.train()
    yield candidate.train_step


def stopwatch(device: torch.device) -> Callable[[Callable[[], None], int], float]:
    """What times ``n`` calls: from a function and n to seconds a call."""

    def on_cpu(function: Callable[[], None], n: int) -> float:
        start = time.perf_counter()
        for _ in range(n):
            function()
        return (time.perf_counter() - start) / n

    def on_gpu(function: Callable[[], None], n: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(n):
            function()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / n

    return on_gpu if device.type == "cuda" else on_cpu


def time_rounds(
    candidates: list[Candidate], mode: Any, seconds: float, device: torch.device
) -> dict[str, np.ndarray]:
    """Seconds a call, ``(rounds,)``, for each alternative; the first tenth is warm-up."""
    measure = stopwatch(device)
    times: dict[str, list[float]] = {candidate.name: [] for candidate in candidates}
    n_calls, order, began = 1, list(candidates), time.perf_counter()
    with mode(candidates[0]) as function:
        measure(function, 3)
        n_calls = max(1, round(2e-3 / measure(function, 3)))  # 2 ms: above the clock's grain
    while time.perf_counter() - began < seconds or len(times["plain"]) < 10:
        for candidate in order:
            with mode(candidate) as function:
                function()  # where a scope computes its weights
                times[candidate.name].append(measure(function, n_calls))
        order.append(order.pop(0))
    warm_up = len(times["plain"]) // 10
    return {name: np.array(values[warm_up:]) for name, values in times.items()}


def measure_workload(workload: Workload, args: Args) -> dict[str, dict[str, Any]]:
    """The ratios to plain of the two modes, and the bytes kept, by alternative."""
    device = resolve_device(args.device)
    built = []
    for chosen in ALTERNATIVES:
        candidate = Candidate(workload, chosen, args)
        if runs(candidate):
            built.append((chosen, candidate))
    forward = [c for a, c in built if a.forward]
    train = [c for a, c in built if a.train]
    return {
        "forward": time_rounds(forward, _forward_mode, args.seconds, device),
        "train": time_rounds(train, _train_mode, args.seconds, device),
        "kept": {c.name: c.kept_bytes() for a, c in built if a.train and a.forward},
    }


def runs(candidate: Candidate) -> bool:
    """Whether this alternative exists here: batch norm has none for one example or an LSTM."""
    if candidate.name == "batch norm" and not any(
        isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in candidate.net.modules()
    ):
        return False
    try:
        candidate.train_step()
    except ValueError as error:  # batch statistics of one example
        if "more than 1 value per channel" not in str(error):
            raise
        return False
    return True


def show(mode: str, rows: dict[str, dict[str, dict[str, Any]]]) -> Iterator[str]:
    """The table of one mode, line by line, with geometric means at its end."""
    names = [a.name for a in ALTERNATIVES if getattr(a, mode)]
    yield "| | plain, µs | " + " | ".join(names[1:]) + " |"
    yield "|---|---|" + "---|" * (len(names) - 1)
    logs: dict[str, list[float]] = {name: [] for name in names}
    for row, results in rows.items():
        times, cells = results[mode], []
        for name in names[1:]:
            if name not in times:
                cells.append("–")
                continue
            low, ratio, high = np.percentile(times[name] / times["plain"], [25, 50, 75])
            logs[name].append(float(np.log(ratio)))
            cells.append(f"{ratio:.2f} ± {(high - low) / 2:.2f}")
        yield f"| {row} | {np.median(times['plain']) * 1e6:.0f} | " + " | ".join(cells) + " |"
    means = [f"{np.exp(np.mean(logs[n])):.3f}" if logs[n] else "–" for n in names[1:]]
    yield "| **geometric mean** | | " + " | ".join(means) + " |"


def show_kept(rows: dict[str, dict[str, dict[str, Any]]]) -> Iterator[str]:
    """The table of bytes."""
    names = [a.name for a in ALTERNATIVES if a.train and a.forward]
    yield "| kB kept | " + " | ".join(names) + " |"
    yield "|---|" + "---|" * len(names)
    for row, results in rows.items():
        kept = results["kept"]
        cells = [f"{kept[n] / 1e3:.0f}" if n in kept else "–" for n in names]
        yield f"| {row} | " + " | ".join(cells) + " |"


def main(args: Args) -> None:
    """Measures every row, then prints the tables."""
    device = resolve_device(args.device)
    torch.set_num_threads(args.threads)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"torch {torch.__version__}, {where}, {args.threads} threads, Adam: {args.adam}")
    rows = {}
    for workload in WORKLOADS:
        if args.only in workload.name:
            print(workload.name, file=sys.stderr)
            rows[workload.name] = measure_workload(workload, args)
    for title, mode in (("Forward without grad", "forward"), ("Train step", "train")):
        print(f"\n{title}: time over plain, median ± half the quartile distance\n")
        print("\n".join(show(mode, rows)))
    print("\nKept for the backward\n")
    print("\n".join(show_kept(rows)))


if __name__ == "__main__":
    _cli.run(main, Args, description=__doc__)
