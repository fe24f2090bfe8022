"""Environment steps a second: ours against stable-baselines3 and sb3-contrib as they are.

    python scripts/bench_agents.py --seconds 60

A row is an algorithm and a norm. The algorithm is trained with stock's own policy and with ours,
with the same hyperparameters (the preset of the task, unless the row says otherwise), interleaved
in one process: a round trains each of them for the same number of environment steps, in an order
that rotates, and what counts is the ratio to stock *within* a round. The table shows the median of
the ratios with half the distance between their quartiles, by wall time, which is what one waits
for, and by CPU time, which other programs on the machine disturb less and which aims are judged
by. Above 1 is faster than stock. The first rounds are warm-up; off-policy algorithms have filled
their buffer up to ``learning_starts`` by then.

Hyperparameters are the same, implementations are not: ours steps with torch's fused Adam, and
``--stock-fused`` gives it to stock too. Stock's CrossQ has batch renormalisation in its networks,
so ``batch_renorm`` is its like. RecurrentPPO costs more while episodes are short, and stock's more
than ours: it steps through each minibatch in which one starts. ``--trained 50000`` measures agents
that have learned for so long.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts._interrupt import leave_at_ctrl_c

if __name__ == "__main__":
    leave_at_ctrl_c()  # until _cli.run catches it

import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import torch

import envs
from agents import AGENTS, vectorize
from scripts import _cli
from wnrl import NORMS
from wnrl.errors import UsageError, check_choice, check_positive
from wnrl.runs import resolve_device
from wnrl.sb3.fused import use_fused

STOCK = "stock"
OURS_ALONE = ("norm_heads", "data_init", "tau")
"""Arguments of policies that stock's do not have."""
WARM_UP = 2
SEGMENT = 0.3
"""Seconds that stock trains for in a round; more where one cycle of updates takes longer."""

Model: TypeAlias = Any
Times: TypeAlias = dict[str, list[tuple[float, float]]]
"""Wall and CPU seconds of each round, by norm or ``STOCK``."""


@dataclass(frozen=True)
class Task:
    """An algorithm in an environment."""

    name: str
    algo: str
    env_id: str
    change: Mapping[str, Any] = field(default_factory=dict)
    """What differs from the preset."""
    preset: bool = True
    """Whether to start from the environment's preset, or from the algorithm's defaults."""
    aims: Mapping[str, float] = field(default_factory=dict)
    """The least ratio to stock that we want, by norm."""
    also: tuple[str, ...] = ()
    """Norms to measure beside those asked for."""

    @property
    def config(self) -> Any:
        """The hyperparameters."""
        agent = AGENTS[self.algo]
        start = agent.preset(self.env_id) if self.preset else agent.config()
        return replace(start, **self.change)


TASKS = (
    Task("PPO, CartPole", "ppo", "CartPole-v1", aims={"weight": 0.95}),
    Task("DQN, CartPole", "dqn", "CartPole-v1", aims={"weight": 0.95}),
    Task("SAC, Pendulum", "sac", "Pendulum-v1"),
    Task("CrossQ, Pendulum", "crossq", "Pendulum-v1", also=("batch_renorm",)),
    *(
        Task(
            f"RecurrentPPO, n_steps {n_steps}",
            "recurrent_ppo",
            "CartPoleNoVel-v1",
            {"n_steps": n_steps},
            aims={} if aim is None else {"none": aim, "weight": aim},
        )
        for n_steps, aim in ((32, None), (128, 2.5), (512, 3.0))
    ),
    Task(
        "RecurrentPPO, defaults of sb3-contrib, n_envs 8",
        "recurrent_ppo",
        "CartPoleNoVel-v1",
        {"n_envs": 8},
        preset=False,
        aims={"none": 2.5, "weight": 2.5},
    ),
)


@dataclass(frozen=True)
class Args:
    """Flags."""

    algos: tuple[str, ...] = tuple(dict.fromkeys(task.algo for task in TASKS))
    """Which algorithms."""
    norms: tuple[str, ...] = ("none", "weight")
    """Norms of ours, each against stock."""
    seconds: float = 30.0
    """Time for each algorithm and environment, its warm-up and ``trained`` left out."""
    trained: int = 0
    """Environment steps that every agent learns for before it is timed."""
    threads: int = 1
    """CPU threads; one is best for networks this small."""
    stock_fused: bool = False
    """Give stock the fused Adam that ours has by itself, to see what the rest of it costs."""
    device: str = "cpu"
    """auto, cpu, cuda or cuda:<k>."""
    seed: int = 0
    """Seed of all agents and environments."""

    def __post_init__(self) -> None:
        check_positive(threads=self.threads, seconds=self.seconds)
        if self.trained < 0:
            raise UsageError(f"trained must not be below zero, got {self.trained}")
        for algo in self.algos:
            check_choice("algos", algo, dict.fromkeys(task.algo for task in TASKS))
        for norm in self.norms:
            check_choice("norms", norm, NORMS)
        if not self.algos or not self.norms:
            raise UsageError("algos and norms must name at least one each")


def build(task: Task, norm: str, args: Args) -> Model:
    """An agent with a norm, or stock's own for ``STOCK``; everything else is the same."""
    config = task.config
    env = vectorize(
        envs.factory(task.env_id), config.n_envs, args.seed, config.normalize, config.gamma
    )
    device = resolve_device(args.device)
    if norm != STOCK:
        return AGENTS[task.algo].build(config, env, norm, args.seed, device)
    arguments = config.policy_arguments()
    model = config.algorithm(
        policy=next(iter(config.algorithm.policy_aliases)),
        env=env,
        policy_kwargs={key: v for key, v in arguments.items() if key not in OURS_ALONE},
        seed=args.seed,
        device=device,
        **config.algorithm_arguments(),
    )
    for part in model.policy.modules() if args.stock_fused else ():
        if hasattr(part, "optimizer"):
            use_fused(part.optimizer)
    return model


def steps_a_cycle(config: Any) -> int:
    """Environment steps after which the same updates come again."""
    if not hasattr(config, "train_freq"):
        return config.n_envs * config.n_steps
    return config.n_envs * config.train_freq * getattr(config, "policy_delay", 1)


def train(model: Model, steps: int) -> tuple[float, float]:
    """Wall and CPU seconds of ``steps`` more environment steps."""
    wall, cpu = time.perf_counter(), time.process_time()
    model.learn(steps, reset_num_timesteps=False)
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(task: Task, args: Args) -> tuple[Times, int]:
    """The times of rounds, and how many environment steps a round has."""
    config = task.config
    norms = dict.fromkeys((STOCK, *args.norms, *task.also))
    models = {norm: build(task, norm, args) for norm in norms}
    cycle = steps_a_cycle(config)
    first = max(args.trained, getattr(config, "learning_starts", 0) + cycle)
    for model in models.values():
        train(model, first)
    steps = cycle * max(1, round(SEGMENT / train(models[STOCK], cycle)[0]))
    times: Times = {name: [] for name in models}
    order = list(models)
    began = time.perf_counter()
    while len(times[STOCK]) < WARM_UP + 3 or time.perf_counter() - began < args.seconds:
        for name in order:
            times[name].append(train(models[name], steps))
        order.append(order.pop(0))
        if len(times[STOCK]) == WARM_UP:
            began = time.perf_counter()
    return {name: rounds[WARM_UP:] for name, rounds in times.items()}, steps


def ratio(stock: list[float], ours: list[float]) -> tuple[float, float]:
    """How many times as fast ours is: median of the rounds, half the quartile distance."""
    low, middle, high = np.percentile(np.array(stock) / np.array(ours), [25, 50, 75])
    return float(middle), float(high - low) / 2


def rows(task: Task, times: Times, steps: int) -> Iterator[str]:
    """The lines of one algorithm in the table, one a norm."""
    wall, cpu = ({name: [r[i] for r in rounds] for name, rounds in times.items()} for i in (0, 1))
    for norm in times:
        if norm == STOCK:
            continue
        middle, spread = ratio(wall[STOCK], wall[norm])
        cpu_middle, cpu_spread = ratio(cpu[STOCK], cpu[norm])
        speeds = [steps / statistics.median(wall[name]) for name in (STOCK, norm)]
        cells = (
            task.name,
            norm,
            f"{middle:.2f} ± {spread:.2f}",
            f"{cpu_middle:.2f} ± {cpu_spread:.2f}",
            *(f"{speed:.0f}" for speed in speeds),
            verdict(task.aims.get(norm), cpu_middle),
        )
        yield f"| {' | '.join(cells)} |"


def verdict(aim: float | None, reached: float) -> str:
    """The aim, and whether it was met."""
    return "" if aim is None else f"≥ {aim:g}: {'met' if reached >= aim else 'missed'}"


HEADER = (
    "| | norm | × stock | × stock, CPU time | stock, steps/s | ours, steps/s | aim |\n"
    "|---|---|---|---|---|---|---|"
)


def main(args: Args) -> None:
    """Measures and prints the table, algorithm by algorithm."""
    device = resolve_device(args.device)
    torch.set_num_threads(args.threads)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"torch {torch.__version__}, {where}, {args.threads} threads\n")
    print(HEADER, flush=True)
    for task in TASKS:
        if task.algo in args.algos:
            print(task.name, file=sys.stderr)
            print("\n".join(rows(task, *measure(task, args))), flush=True)


if __name__ == "__main__":
    _cli.run(main, Args, description=__doc__)
