"""Measure PPO of a population against stock stable-baselines3 on CartPole, steps a second.

    python scripts/bench/population.py --members 1 8 64 240

Stock's PPO and cohorts of several sizes and norms are trained interleaved in one process of one
thread: a round trains each of them for a while, in an order that rotates, and what counts is the
ratio to stock *within* a round. A cohort of P members counts P times its steps. The table shows the
median of the ratios with half the distance between their quartiles, by wall time and by CPU time;
aims are judged by CPU time.

``--ways auto vmap`` measures both ways of computing the same. On two cores, two processes of one
thread do twice as much; two threads in one process do not.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from scripts import _cli
from wnrl.errors import UsageError, check_choice, check_positive

WAYS = ("auto", "hot", "vmap")
AIMS = {"none": 10.0, "weight": 9.0, "layer": 5.5, "rms": 5.5, "batch": 5.5}
"""Least ratios to stock, at ``AIM_MEMBERS`` or more."""
AIM_ELSE, AIM_MEMBERS = 3.0, 64
ROUNDS = 5
SEGMENT = 0.3
"""Seconds that each is trained for in a round, or one iteration if that takes longer."""


@dataclass(frozen=True)
class Args:
    """Flags."""

    norms: tuple[str, ...] = ("none", "weight", "layer", "rms", "batch")
    """Which norms."""
    members: tuple[int, ...] = (1, 8, 64)
    """Sizes of cohorts."""
    ways: tuple[str, ...] = ("auto",)
    """How a cohort computes: auto, hot or vmap."""
    chunk: int | None = None
    """Members that are updated together; as cohorts choose unless given."""
    seconds: float = 20.0
    """Least time for the rounds of a norm."""
    device: str = "cpu"
    """auto, cpu, cuda or cuda:<k>; of the cohorts alone."""

    def __post_init__(self) -> None:
        from wnrl import NORMS

        check_positive(seconds=self.seconds, **{f"members[{n}]": n for n in self.members})
        for norm in self.norms:
            check_choice("norms", norm, NORMS)
        for way in self.ways:
            check_choice("ways", way, WAYS)
        if not (self.norms and self.members and self.ways):
            raise UsageError("norms, members and ways must name at least one each")


if __name__ == "__main__":
    _cli.begin(Args, __doc__)  # before torch is imported

import numpy as np

import envs
from agents import AGENTS
from scripts.bench import _rounds
from scripts.bench._rounds import CPU, WALL, cell
from wnrl.population.ppo import PPO
from wnrl.population.ppo_config import PPOConfig
from wnrl.rl.environments import vectorize
from wnrl.runs import resolve_device
from wnrl.tensor_envs import CartPole

STOCK = "stock"
Train = Callable[[], int]
"""Trains for one iteration, and returns how many environment steps that was."""


def stock() -> Train:
    """Return stock's PPO, with the preset of CartPole."""
    config = AGENTS["ppo"].preset("CartPole-v1")
    env = vectorize(envs.factory("CartPole-v1"), config.n_envs, 0)
    model = config.algorithm("MlpPolicy", env, seed=0, device="cpu", **config.algorithm_arguments())

    def train() -> int:
        model.learn(config.n_envs * config.n_steps, reset_num_timesteps=False)
        return config.n_envs * config.n_steps

    return train


def cohort(norm: str, n_members: int, way: str, args: Args) -> Train:
    """Return a cohort with the same hyperparameters."""
    config = replace(AGENTS["ppo"].preset("CartPole-v1"), total_timesteps=10**9)
    member = PPOConfig.of({**vars(config), "norm": norm})
    members = [replace(member, seed=seed) for seed in range(n_members)]
    made = PPO(CartPole(), members, device=resolve_device(args.device), chunk=args.chunk, way=way)

    def train() -> int:
        made.iterate()
        return n_members * member.samples

    return train


def timed(train: Train, args: Args) -> list[float]:
    """Return the wall and the CPU seconds of an environment step."""
    device, steps, spent = resolve_device(args.device), 0, np.zeros(2)

    def some() -> None:
        nonlocal steps
        steps += train()

    while not steps or spent[WALL] < SEGMENT:
        spent += _rounds.clocked(some, device)
    return list(spent / steps)


def measure(norm: str, args: Args) -> dict[str, np.ndarray]:
    """Return each arm's seconds a step, ``(rounds, 2)``."""
    arms = {STOCK: stock()}
    for n_members in args.members:
        for way in args.ways:
            arms[f"{n_members} {way}"] = cohort(norm, n_members, way, args)
    each = {name: lambda train=train: timed(train, args) for name, train in arms.items()}
    return _rounds.interleaved(each, rounds=ROUNDS, warm_up=1, seconds=args.seconds)


def rows(norm: str, times: Mapping[str, np.ndarray]) -> Iterator[str]:
    """Yield the lines of a norm in the table."""
    for name, ours in times.items():
        if name == STOCK:
            continue
        n_members, way = name.split()
        by_cpu = _rounds.ratio(times[STOCK][:, CPU], ours[:, CPU])[0]
        aim = AIMS.get(norm, AIM_ELSE)
        judged = int(n_members) >= AIM_MEMBERS and way == "auto"
        met = "met" if by_cpu >= aim else "missed"
        yield _rounds.line(
            (
                norm,
                n_members,
                way,
                cell(times[STOCK][:, WALL], ours[:, WALL]),
                cell(times[STOCK][:, CPU], ours[:, CPU]),
                *(f"{1 / np.median(arm[:, CPU]):,.0f}" for arm in (times[STOCK], ours)),
                f"≥ {aim:g}: {met}" if judged else "",
            )
        )


def main(args: Args) -> None:
    """Measure and print the table, norm by norm."""
    _rounds.prepare(args.device, 1)
    columns = ("× stock", "× stock, CPU time", "stock, steps/CPU-s", "ours, steps/CPU-s", "aim")
    print(_rounds.header("norm", "members", "way", *columns), flush=True)
    for norm in args.norms:
        print("\n".join(rows(norm, measure(norm, args))), flush=True)


if __name__ == "__main__":
    _cli.run(main, Args, description=__doc__)
