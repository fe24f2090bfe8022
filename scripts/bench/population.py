"""Measure cohorts of a population against a run that is trained alone, steps a second.

    python scripts/bench/population.py --members 1 8 64 240
    python scripts/bench/population.py --algo recurrent_ppo --norms none weight
    python scripts/bench/population.py --algo dqn --members 8 64
    python scripts/bench/population.py --algo dqn --env-id MinAtarBreakout-v1 --norms none weight
    python scripts/bench/population.py --algo vae --norms none weight --device cuda
    python scripts/bench/population.py --growth --norms weight

PPO and DQN on CartPole, or in ``--env-id``, are measured against stock stable-baselines3's;
recurrent PPO on CartPole without velocities against our own agent with the same norm; MLP VAEs on
digits against our own VAE with the same norm, on the same device, in gradient steps. Both sides
have the preset, DQN's without the steps before the first update. The one and cohorts of several
sizes are trained interleaved in one process of one thread: a round trains each of them for a
while, in an order that rotates, and what counts is the ratio *within* a round. A cohort of P
members counts P times its steps. The table shows the median of the ratios with half the distance
between their quartiles, by wall time and by CPU time.

``--ways auto vmap`` measures both ways of computing the same; on a GPU, ``eager`` is ``auto``
without a CUDA graph. On two cores, two processes of one
thread do twice as much; two threads in one process do not.

``--growth`` is another table: how the time of an iteration and the memory it takes grow with
members, with the width of the hidden layers and with environments, beside the estimate by which
cohorts that are too large are refused.
"""

import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Annotated, Any

from scripts import _cli
from wnrl.errors import UsageError
from wnrl.limits import Limited, NormKey, Positive, Sizes, one_of, some

WAYS = ("auto", "vmap", "eager")
TASKS = {
    "ppo": ("CartPole-v1", "stock"),
    "recurrent_ppo": ("CartPoleNoVel-v1", "our agent"),
    "dqn": ("CartPole-v1", "stock"),
    "vae": ("digits", "our VAE"),
}
"""The environment, or data set, of an algorithm, and what its cohorts are measured against."""
GROWTH = [(n, 64, 8) for n in (1, 8, 64, 240)] + [(64, 128, 8), (64, 256, 8), (64, 64, 32)]
"""Members, width and environments."""
ROUNDS = 5
ALONE = 256
"""Steps of the agent alone between two looks at the clock, at least."""
STEPS = 16
"""Gradient steps of the VAE alone between two looks."""
SEGMENT = 0.3
"""Seconds that each is trained for in a round, or one iteration if that takes longer."""


@dataclass(frozen=True)
class Args(Limited):
    """Flags."""

    algo: Annotated[str, one_of(TASKS)] = "ppo"
    """ppo, recurrent_ppo, dqn or vae."""
    norms: Annotated[tuple[NormKey, ...], some] = ("none", "weight", "layer", "rms", "batch")
    """Which norms."""
    members: Annotated[Sizes, some] = (1, 8, 64)
    """Sizes of cohorts."""
    ways: Annotated[tuple[Annotated[str, one_of(WAYS)], ...], some] = ("auto",)
    """How a cohort computes: auto, vmap (of PPO and DQN) or eager."""
    env_id: str | None = None
    """The environment, a tensor environment's, or the data set; the algorithm's own if not
    given."""
    net_arch: Sizes | None = None
    """Hidden units on both sides; the preset's if not given."""
    growth: bool = False
    """Measure how time and memory grow, of cohorts alone."""
    seconds: Positive = 20.0
    """Least time for the rounds of a norm."""
    device: str = "cpu"
    """auto, cpu, cuda or cuda:<k>; of the cohorts alone, and of VAEs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.algo == "vae" and (self.growth or "vmap" in self.ways):
            raise UsageError("growth and the way vmap are not for VAEs")


if __name__ == "__main__":
    _cli.begin(Args, __doc__)  # before torch is imported

import numpy as np
import torch

from agents import AGENTS
from scripts.bench import _rounds
from scripts.bench._rounds import CPU, WALL, both_clocks, table
from wnrl import vae
from wnrl.data import load
from wnrl.population import COHORTS
from wnrl.population.cohort import Cohort
from wnrl.population.vae import VAECohort
from wnrl.runs import resolve_device
from wnrl.tensor_envs import make

Train = tuple[Callable[[], object], int]
"""Trains for one iteration, and how many environment or gradient steps that is."""


def environment(args: Args) -> str:
    """Return the id of the environment."""
    return args.env_id or TASKS[args.algo][0]


def preset(args: Args) -> Any:
    """Return the hyperparameters of both sides."""
    config = AGENTS[args.algo].preset(environment(args))
    if args.net_arch is not None:
        config = replace(config, net_arch=args.net_arch)
    return replace(config, learning_starts=0) if args.algo == "dqn" else config


def alone(norm: str, args: Args) -> Train:
    """Return what cohorts are measured against."""
    env_id = environment(args)
    if args.algo == "vae":
        images, settings = load(env_id), vae_preset(norm, args)
        network = vae.build(settings, images).to(resolve_device(args.device))
        return partial(_rounds.train_vae, vae.Trainer(network, images, settings), STEPS), STEPS
    config = preset(args)
    if args.algo == "recurrent_ppo":
        model = _rounds.agent_of(args.algo, env_id, norm, config=config)
    else:
        model = _rounds.stock_agent(env_id, config)
    steps = config.steps_of_an_update
    steps *= math.ceil(ALONE / steps)
    return partial(model.learn, steps, reset_num_timesteps=False), steps


def vae_preset(norm: str, args: Args) -> vae.VAEConfig:
    """Return the settings of a VAE on both sides, of so many steps that no curve has a point."""
    sizes: dict[str, Any] = {"hidden": args.net_arch, "n_steps": 10**9, "n_logs": 1}
    return vae.preset("mlp", environment(args), norm=norm, **sizes)


def together(norm: str, n_members: int, way: str, args: Args) -> Train:
    """Return a cohort's training."""
    if args.algo != "vae":
        agents = made(norm, n_members, way, args)
        return agents.iterate, n_members * agents.config.samples
    config, device = vae_preset(norm, args), resolve_device(args.device)
    members = [replace(config, seed=seed) for seed in range(n_members)]
    vaes = VAECohort(load(environment(args)), members, device=device, graph=way != "eager")
    return vaes.iterate, n_members


def made(norm: str, n_members: int, way: str, args: Args, **changes: Any) -> Cohort:
    """Return a cohort with the same hyperparameters, but for ``changes``."""
    env_id, kind = environment(args), COHORTS[args.algo]
    values = {**vars(preset(args)), "total_timesteps": 10**9, "norm": norm}
    member = kind.member({**values, **changes})
    members = [replace(member, seed=seed) for seed in range(n_members)]
    device, formulas, graph = resolve_device(args.device), way != "vmap", way != "eager"
    return kind(make(env_id), members, device=device, formulas=formulas, graph=graph)


def growth(norm: str, args: Args) -> Iterator[tuple[str, ...]]:
    """Yield the rows of a norm in the table of growth."""
    device = resolve_device(args.device)
    made(norm, 1, "auto", args).iterate()  # libraries are loaded
    for n_members, width, n_envs in GROWTH:
        before = _rounds.memory_in_use(device)
        trained = made(norm, n_members, "auto", args, net_arch=(width, width), n_envs=n_envs)
        trained.iterate()
        wall, cpu = np.median([_rounds.clocked(trained.iterate, device) for _ in range(3)], 0)
        used = _rounds.most_memory(device) - before
        kept, active = trained.bytes
        estimate = (n_members * kept + min(trained.chunk, n_members) * active) / 2**20
        steps = n_members * trained.config.samples
        sizes = map(str, (n_members, width, n_envs))
        times = f"{wall * 1e3:.0f}", f"{cpu / steps * 1e6:.1f}"
        yield norm, *sizes, *times, f"{used:.0f}", f"{estimate:.0f}"
        del trained


def timed(train: Train, device: torch.device) -> list[float]:
    """Return the wall and the CPU seconds of an environment step."""
    iterate, steps = train
    calls, spent = 0, np.zeros(2)
    while not calls or spent[WALL] < SEGMENT:
        spent += _rounds.clocked(iterate, device)
        calls += 1
    return list(spent / (calls * steps))


def measure(norm: str, args: Args) -> dict[str, np.ndarray]:
    """Return each arm's seconds a step, ``(rounds, 2)``."""
    arms = {TASKS[args.algo][1]: alone(norm, args)}
    for n_members, way in product(args.members, args.ways):
        arms[f"{n_members} {way}"] = together(norm, n_members, way, args)
    device = resolve_device(args.device)
    each = {name: partial(timed, train, device) for name, train in arms.items()}
    return _rounds.interleaved(each, rounds=ROUNDS, warm_up=1, seconds=args.seconds)


def rows(norm: str, times: Mapping[str, np.ndarray]) -> Iterator[tuple[str, ...]]:
    """Yield the rows of a norm in the table."""
    (_, single), *cohorts = times.items()
    for name, ours in cohorts:
        n_members, way = name.split()
        speeds = (f"{1 / np.median(arm[:, CPU]):,.0f}" for arm in (single, ours))
        yield norm, n_members, way, *both_clocks(single, ours), *speeds


def main(args: Args) -> None:
    """Measure and print the table, norm by norm."""
    _rounds.prepare(args.device, 1)
    if args.growth:
        measured = ("ms an iteration", "CPU µs a step", "MiB", "MiB, estimated")
        sizes = ("norm", "members", "width", "environments")
        table((*sizes, *measured), (row for norm in args.norms for row in growth(norm, args)))
        return
    single = TASKS[args.algo][1]
    columns = (f"× {single}", f"× {single}, CPU time", f"{single}, steps/CPU-s")
    names = ("norm", "members", "way", *columns, "cohort, steps/CPU-s")
    each = ((norm, measure(norm, args)) for norm in args.norms)
    table(names, (row for norm, times in each for row in rows(norm, times)))


if __name__ == "__main__":
    _cli.run(main, Args, description=__doc__)
