"""Measure environment steps a second: ours against stable-baselines3 and sb3-contrib as they are.

    python scripts/bench/agents.py --seconds 60

A row is an algorithm and a norm. The algorithm is trained with stock's own policy and with ours,
with the same hyperparameters (the preset of the task, unless the row says otherwise), interleaved
in one process: a round trains each of them for the same number of environment steps, in an order
that rotates, and what counts is the ratio to stock *within* a round. The table shows the median of
the ratios with half the distance between their quartiles, by wall time, which is what one waits
for, and by CPU time, which other programs on the machine disturb less. Above 1 is faster than
stock. The first rounds are warm-up; off-policy algorithms have filled their buffer up to
``learning_starts`` by then.

Hyperparameters are the same, implementations are not: ours steps with torch's fused Adam. Stock's
CrossQ has batch renormalisation in its networks, so ``batch_renorm`` is its like. RecurrentPPO
costs more while episodes are short, and stock's more than ours: it steps through each minibatch in
which one starts. ``--compile`` compiles what ours calls in updates, where it can be: on a GPU as
CUDA graphs.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from scripts import _cli
from wnrl.limits import Limited, NormKey, Positive, one_of, some

STOCK = "stock"
SEGMENT = 0.3
"""Seconds that stock trains for in a round; more where one cycle of updates takes longer."""


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
    also: tuple[str, ...] = ()
    """Norms to measure beside those asked for."""

    @property
    def config(self) -> Any:
        """The hyperparameters."""
        agent = AGENTS[self.algo]
        return replace(agent.preset(self.env_id) if self.preset else agent.config(), **self.change)


def _recurrent(name: str, change: Mapping[str, Any], preset: bool = True) -> Task:
    return Task(f"RecurrentPPO, {name}", "recurrent_ppo", "CartPoleNoVel-v1", change, preset)


TASKS = (
    Task("PPO, CartPole", "ppo", "CartPole-v1"),
    Task("DQN, CartPole", "dqn", "CartPole-v1"),
    Task("SAC, Pendulum", "sac", "Pendulum-v1"),
    Task("CrossQ, Pendulum", "crossq", "Pendulum-v1", also=("batch_renorm",)),
    _recurrent("n_steps 32", {"n_steps": 32}),
    _recurrent("n_steps 128", {"n_steps": 128}),
    _recurrent("n_steps 512", {"n_steps": 512}),
    _recurrent("defaults of sb3-contrib, n_envs 8", {"n_envs": 8}, preset=False),
    Task("PPO, Pong", "ppo", "ALE/Pong-v5"),
)
ALGOS = tuple(dict.fromkeys(task.algo for task in TASKS))


@dataclass(frozen=True)
class Args(Limited):
    """Flags."""

    algos: Annotated[tuple[Annotated[str, one_of(ALGOS)], ...], some] = ALGOS
    """Which algorithms."""
    norms: Annotated[tuple[NormKey, ...], some] = ("none", "weight")
    """Norms of ours, each against stock."""
    seconds: Positive = 30.0
    """Time for each algorithm and environment, its warm-up left out."""
    compile: bool = False
    """Compile ours."""
    device: str = "cpu"
    """auto, cpu, cuda or cuda:<k>."""


if __name__ == "__main__":
    _cli.begin(Args, __doc__)  # before torch is imported

import numpy as np

from agents import AGENTS
from scripts.bench import _rounds
from scripts.bench._rounds import WALL, both_clocks
from wnrl.rl.compiling import compiled_updates
from wnrl.runs import resolve_device


def build(task: Task, norm: str, args: Args) -> Any:
    """Return an agent with a norm, or stock's own for ``STOCK``; everything else is the same."""
    config, device = task.config, resolve_device(args.device)
    if norm == STOCK:
        return _rounds.stock_agent(task.env_id, config, device)
    return _rounds.agent_of(task.algo, task.env_id, norm, device, config)


def steps_a_cycle(config: Any) -> int:
    """Return the environment steps after which the same updates come again."""
    return config.steps_of_an_update * getattr(config, "policy_delay", 1)


def train(model: Any, steps: int) -> list[float]:
    """Return the wall and CPU seconds of ``steps`` more environment steps."""
    return _rounds.clocked(lambda: model.learn(steps, reset_num_timesteps=False), model.device)


def measure(task: Task, args: Args) -> tuple[dict[str, np.ndarray], int]:
    """Return each arm's times, ``(rounds, 2)``, and how many environment steps a round has."""
    config = task.config
    names = dict.fromkeys((STOCK, *args.norms, *task.also))
    models = {name: build(task, name, args) for name in names}
    cycle = steps_a_cycle(config)
    with ExitStack() as stack:
        for name, model in models.items():
            if args.compile and name != STOCK:
                stack.enter_context(compiled_updates(model, AGENTS[task.algo].compiled))
            train(model, getattr(config, "learning_starts", 0) + cycle)
        steps = cycle * max(1, round(SEGMENT / train(models[STOCK], cycle)[WALL]))
        arms = {name: lambda model=model: train(model, steps) for name, model in models.items()}
        return _rounds.interleaved(arms, rounds=3, warm_up=2, seconds=args.seconds), steps


def rows(task: Task, times: Mapping[str, np.ndarray], steps: int) -> Iterator[tuple[str, ...]]:
    """Yield the rows of one algorithm in the table, one a norm."""
    stock = times[STOCK]
    for norm, ours in times.items():
        if norm != STOCK:
            speeds = (f"{steps / np.median(arm[:, WALL]):.0f}" for arm in (stock, ours))
            yield task.name, norm, *both_clocks(stock, ours), *speeds


def main(args: Args) -> None:
    """Measure and print the table, algorithm by algorithm."""
    _rounds.prepare(args.device, 1)
    names = ("", "norm", "× stock", "× stock, CPU time", "stock, steps/s", "ours, steps/s")
    tasks = (task for task in TASKS if task.algo in args.algos)
    _rounds.table(names, (row for task in tasks for row in rows(task, *measure(task, args))))


if __name__ == "__main__":
    _cli.run(main, Args, description=__doc__)
