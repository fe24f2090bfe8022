"""How every benchmark here measures: alternatives interleaved, ratios within a round."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

import envs
from agents import AGENTS
from wnrl.rl.environments import vectorize
from wnrl.rl.hardware import has_images
from wnrl.rl.models import OURS, extractor
from wnrl.runs import resolve_device
from wnrl.runs.machine import begin_peak_memory, peak_memory

WALL, CPU = 0, 1
"""Columns of what ``clocked`` measures."""


def prepare(device: str, threads: int, *more: str) -> torch.device:
    """Set the number of CPU threads, print what is measured on, and return the device."""
    where = resolve_device(device)
    torch.set_num_threads(threads)
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else "CPU"
    print(", ".join((f"torch {torch.__version__}", name, f"{threads} threads", *more)) + "\n")
    return where


def clocked(function: Callable[[], object], device: torch.device | None = None) -> list[float]:
    """Return the wall and the CPU seconds of a call, at whose end a GPU has finished."""
    _finish(device)
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    _finish(device)
    return [time.perf_counter() - wall, time.process_time() - cpu]


def _finish(device: torch.device | None) -> None:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)


def memory_in_use(device: torch.device) -> float:
    """Return the MiB in use, from which ``most_memory`` counts anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 2**20
    begin_peak_memory()
    return peak_memory()


def most_memory(device: torch.device) -> float:
    """Return the most MiB at a time since ``memory_in_use``, of this process or on the GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return peak_memory()


def interleaved(
    arms: Mapping[str, Callable[[], Any]], rounds: int, warm_up: int = 1, seconds: float = 0.0
) -> dict[str, np.ndarray]:
    """Return what each arm measured, one row a round.

    A round calls each arm once, in an order that rotates from round to round.

    Args:
        arms: functions that return what they measured: a number or several.
        rounds: the least number of rounds.
        warm_up: rounds before them, which are left out.
        seconds: the least time for all rounds without the warm-up.
    """
    measured: dict[str, list[Any]] = {name: [] for name in arms}
    order, done, began = list(arms), 0, time.perf_counter()
    while done < warm_up + rounds or time.perf_counter() - began < seconds:
        for name in order:
            measured[name].append(arms[name]())
        order.append(order.pop(0))
        done += 1
        if done == warm_up:
            began = time.perf_counter()
    return {name: np.array(values[warm_up:]) for name, values in measured.items()}


def ratio(over: np.ndarray, under: np.ndarray) -> tuple[float, float]:
    """Return the median of the rounds' ratios, and half the distance between their quartiles."""
    low, middle, high = np.percentile(over / under, [25, 50, 75])
    return float(middle), float(high - low) / 2


def cell(over: np.ndarray, under: np.ndarray, digits: int = 2) -> str:
    """Return the ratio as a table shows it."""
    middle, spread = ratio(over, under)
    return f"{middle:.{digits}f} ± {spread:.{digits}f}"


def both_clocks(over: np.ndarray, under: np.ndarray) -> tuple[str, str]:
    """Return ratios by wall time and by CPU time of what ``clocked`` measured, ``(rounds, 2)``."""
    return cell(over[:, WALL], under[:, WALL]), cell(over[:, CPU], under[:, CPU])


def table(names: Sequence[str], rows: Iterable[Iterable[str]]) -> None:
    """Print a Markdown table, each row as soon as it is there."""
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}", flush=True)
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def mean_cell(values: np.ndarray) -> str:
    """Return mean and standard error as a table shows them."""
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1) / len(values) ** 0.5:.1f}"


def agent_of(
    algo: str, env_id: str, norm: str, device: Any = "cpu", config: Any = None, seed: int = 0
) -> Any:
    """Return an agent with the preset of its environment, or another configuration."""
    config = config or AGENTS[algo].preset(env_id)
    return AGENTS[algo].build(config, _environments(env_id, config, seed), norm, seed, device)


def stock_agent(env_id: str, config: Any, device: Any = "cpu") -> Any:
    """Return stable-baselines3's or sb3-contrib's own agent with a configuration of ours."""
    env = _environments(env_id, config, seed=0)
    seen = env.observation_space
    kind = "Cnn" if has_images(seen) else "Mlp"
    taken = {k: v for k, v in config.policy_arguments().items() if k not in (*OURS, "tau")}
    return config.algorithm(
        policy=next(name for name in config.algorithm.policy_aliases if name.startswith(kind)),
        env=env,
        policy_kwargs={**extractor(seen), **taken},
        seed=0,
        device=device,
        **config.algorithm_arguments(),
    )


def _environments(env_id: str, config: Any, seed: int) -> Any:
    """Return the environments of an agent with a configuration."""
    factory = envs.factory(env_id)
    return vectorize(factory, config.n_envs, seed, config.normalize, config.gamma)


def train_vae(trainer: Any, steps: int) -> None:
    """Do so many more gradient steps of a VAE's training."""
    until = trainer.step + steps
    list(trainer.run(lambda: trainer.step >= until))
