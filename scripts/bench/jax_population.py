"""Measure a cohort of PPO runs against the same algorithm in JAX, on one device in one process.

    pip install jax
    python scripts/bench/jax_population.py --members 8 --device cpu
    python scripts/bench/jax_population.py --members 240 --device cuda

In JAX the whole training of a run is one ``lax.scan``, and that of all runs ``jit(vmap(...))`` over
seeds, as PureJaxRL has it (Lu et al., 2022). Both sides compute the same: CartPole with its time
limit, SB3's networks and SB3's PPO, with the settings of the studies. On both sides actor and
critic are one batch of two networks, a rollout draws its random numbers at once, and w = g v/‖v‖ is
computed once a rollout. The random numbers differ, so that returns are alike in distribution alone:
they are means over the runs of both calls with standard errors, of all episodes of training and of
those in its last tenth.

Each side trains twice, in turns and with other seeds, from drawing networks to the last update. Our
first call has what a process does once, such as loading libraries; on a GPU each call records its
CUDA graph. JAX is compiled before, which has a column of its own, and its time is that of the
second call. Both compute in float32 with full float32 products: JAX is told so, and it is torch's
default. On a CPU both have one thread, JAX by ``NPROC=1``, which XLA takes for the number of cores;
with more of them, JAX's run may hang.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import Annotated, Any, Literal

from scripts import _cli
from wnrl.errors import UsageError
from wnrl.limits import Limited, Sizes, Whole, some


@dataclass(frozen=True)
class Args(Limited):
    """Flags."""

    members: Annotated[Sizes, some] = (240,)
    """Numbers of runs that are trained at once."""
    norms: Annotated[tuple[Literal["none", "weight"], ...], some] = ("none", "weight")
    """Which norms."""
    total_timesteps: Whole = 100_000
    """Environment steps of a run."""
    device: str = "cpu"
    """auto, cpu, cuda or cuda:<k>."""


if __name__ == "__main__":
    _cli.begin(Args, __doc__)  # before torch is imported

import numpy as np
import torch

from scripts.bench import _rounds
from scripts.bench._rounds import WALL, clocked, mean_cell
from scripts.studies._tasks import PPO as SETTINGS
from wnrl.population.config import PPOConfig
from wnrl.population.ppo import PPO
from wnrl.tensor_envs import CartPole

Episodes = tuple[np.ndarray, np.ndarray]
"""Sums of the returns of each rollout's episodes, and their numbers, ``(P, iterations)``."""


def timed(function: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Return the wall seconds of a call, and what it returned."""
    results: list[Any] = []
    seconds = clocked(lambda: results.append(function()), device)[WALL]
    return seconds, results[0]


def in_torch(config: PPOConfig, seeds: range, device: torch.device) -> Episodes:
    """Train a cohort."""
    cohort = PPO(CartPole(), [replace(config, seed=seed) for seed in seeds], device=device)
    sums, counts = [], []
    for _ in range(config.iterations):
        ended = cohort.iterate()
        sums.append(ended.returns.nansum((1, 2)))
        counts.append((ended.lengths > 0).sum((1, 2)))
    return torch.stack(sums, 1).cpu().numpy(), torch.stack(counts, 1).cpu().numpy()


def returns(*calls: Episodes) -> Iterator[str]:
    """Yield mean and standard error of the runs, of all episodes and of the last tenth's."""
    sums, counts = (np.concatenate(arrays, dtype=float) for arrays in zip(*calls, strict=True))
    for first in (0, -max(1, sums.shape[1] // 10)):
        yield mean_cell(sums[:, first:].sum(1) / counts[:, first:].sum(1))


def row(config: PPOConfig, n_members: int, device: torch.device) -> Iterator[str]:
    """Yield the cells of a row."""
    from scripts.bench._ppo_in_jax import compiled  # where there is JAX

    compiling, program = timed(lambda: compiled(config, n_members, device), device)
    ours = partial(in_torch, config, device=device)
    first, ours_first = timed(lambda: ours(range(n_members)), device)
    _, jax_first = timed(lambda: program(0), device)
    seconds, ours_second = timed(lambda: ours(range(n_members, 2 * n_members)), device)
    jax_seconds, jax_second = timed(lambda: program(1), device)
    yield from (config.norm, str(n_members))
    yield from (f"{s:.1f}" for s in (first, seconds, compiling, jax_seconds))
    yield f"{jax_seconds / seconds:.2f}"
    steps = n_members * config.iterations * config.samples
    yield from (f"{steps / s:,.0f}" for s in (seconds, jax_seconds))
    yield from (*returns(ours_first, ours_second), *returns(jax_first, jax_second))


COLUMNS = (
    "norm", "members", "ours, first s", "ours, s", "JAX, compiling s", "JAX, s", "JAX / ours",
    "ours, steps/s", "JAX, steps/s",
    "ours, return in training", "ours, last tenth", "JAX, return in training", "JAX, last tenth",
)  # fmt: skip


def main(args: Args) -> None:
    """Measure and print the table, row by row."""
    if find_spec("jax") is None:
        raise UsageError("jax is missing: pip install jax")
    device = _rounds.prepare(args.device, 1, f"jax {version('jax')}")
    if device.type == "cpu":
        os.environ["NPROC"] = "1"  # which XLA reads when it is first used
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # else JAX takes most of a GPU
    settings = SETTINGS | {"total_timesteps": args.total_timesteps, "learning_rate": 3e-3}
    configs = [PPOConfig.of({**settings, "norm": norm}) for norm in args.norms]
    rows = (row(config, size, device) for config in configs for size in args.members)
    _rounds.table(COLUMNS, rows)


if __name__ == "__main__":
    _cli.run(main, Args, description=__doc__)
