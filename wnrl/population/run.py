"""A cohort as a ``Batch`` of ``wnrl.runs``: its members' curves, checkpoints and results."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wnrl import tags
from wnrl.errors import NonFiniteError
from wnrl.population.cohort import Cohort
from wnrl.population.rollout import Ended
from wnrl.population.states import Agents, clone, copy_, joined, part, put_back_
from wnrl.rl.evaluation import Curve
from wnrl.rl.models import to_sb3
from wnrl.rl.run import AgentRun, Plan, evaluations
from wnrl.rl.snapshots import BEST, save_snapshot
from wnrl.runs import EventFile

TOGETHER = 5  # points of the curves whose evaluations are one
RECENT = 100  # episodes whose mean return is the training curve, as in SB3
CURVE_START, FINAL_START = 0, 1_000_000
"""Numbers of the first starts of the curve's evaluations and of those after training."""


@dataclass(eq=False)
class CohortRun:
    """A cohort that is evaluated while it trains."""

    cohort: Cohort
    """Members, not yet trained."""
    algo: str
    """Their algorithm, a key of ``wnrl.rl.models.MODELS``."""
    plan: Plan
    """How they are evaluated."""
    machine: Mapping[str, Any]
    """``device`` and ``threads`` as they were settled."""
    identity: Mapping[str, Any]
    """What TensorBoard's HParams tab says of all of them besides their settings."""

    def __post_init__(self) -> None:
        self.plain_parts = self.to_sb3(0, self.cohort.agents).policy.plain_parts
        self.members = [CohortMember(self, place) for place in range(len(self.cohort.members))]
        self.best = clone(self.cohort.agents)
        self.points: list[int] = []  # steps of the curves
        self.seconds = 0.0  # of rollouts and updates
        self.waiting: list[Agents] = []  # those of the last points
        self._ended: list[Ended] = []  # since they were noted

    def to_sb3(self, place: int, agents: Agents) -> Any:
        """Return the model of a member, as it is in ``agents``."""
        cohort, env = self.cohort, self.cohort.env
        spaces = (env.observation_space, env.action_space)
        return to_sb3(self.algo, cohort.members[place], *spaces, cohort.member_state(place, agents))

    def train(self, events: Sequence[EventFile], between: Callable[[], None]) -> None:
        """Train all members to the last step, as ``wnrl.runs.Batch`` has it."""
        every = self.plan.total_timesteps / self.plan.eval_points
        while self.cohort.iteration < self.cohort.config.iterations:
            between()
            began = time.perf_counter()
            self._ended.append(self.cohort.iterate())
            self.seconds += time.perf_counter() - began
            last = self.cohort.iteration == self.cohort.config.iterations
            if last or self.cohort.steps >= every * (len(self.points) + 1):
                self._add_point(events)
            if last or len(self.waiting) == TOGETHER:
                self._evaluate(events)
        between()

    @property
    def agents(self) -> dict[str, Any]:
        """Those that wait to be evaluated, and the best ones so far."""
        return {"waiting": [[*agents] for agents in self.waiting], "best": [*self.best]}

    @cached_property
    def returns(self) -> list[list[list[float]]]:
        """The returns of the evaluation after training: of all last agents, and of all best."""
        agents = joined([self.cohort.agents, self.best])
        played, _ = self.cohort.evaluate(self.plan.eval_episodes, FINAL_START, agents)
        return played.unflatten(0, (2, -1)).tolist()

    def note_episodes(self) -> None:
        """Put what ended in the last rollouts behind each member's recent episodes."""
        for rollout in self._ended:
            returns, lengths = (x.transpose(1, 2).flatten(1).tolist() for x in rollout)  # by time
            for member, *each in zip(self.members, returns, lengths, strict=True):
                member.recent.extend((r, n) for r, n in zip(*each, strict=True) if n > 0)
        self._ended.clear()

    def _add_point(self, events: Sequence[EventFile]) -> None:
        """Keep the agents of a point of the curves, and log the episodes of training."""
        self.points.append(self.cohort.steps)
        self.waiting.append(clone(self.cohort.agents))
        self.note_episodes()
        for member, file in zip(self.members, events, strict=True):
            if member.recent:
                returns, lengths = np.mean(member.recent, axis=0)
                file.add_scalar(tags.ROLLOUT_RETURN, returns, self.cohort.steps)
                file.add_scalar(tags.ROLLOUT_LENGTH, lengths, self.cohort.steps)

    def _evaluate(self, events: Sequence[EventFile]) -> None:
        """Evaluate the agents of the last points together, which costs little more than one.

        Where a network is not finite, its curve ends.
        """
        agents = joined(self.waiting)
        played = self.cohort.evaluate(self.plan.eval_point_episodes, CURVE_START, agents)
        means = torch.stack([numbers.double().mean(1) for numbers in played], -1)
        finite = agents.params.isfinite().all(1).tolist()
        rows = means.view(len(self.waiting), len(self.members), 2).tolist()
        steps = self.points[-len(rows) :]
        for k, (step, row) in enumerate(zip(steps, rows, strict=True)):
            for member, file, (mean, length) in zip(self.members, events, row, strict=True):
                if not finite[k * len(self.members) + member.place]:
                    continue
                file.add_scalar(tags.EVAL_RETURN, mean, step)
                file.add_scalar(tags.EVAL_LENGTH, length, step)
                if member.curve.add(step, mean):
                    member.best_step = step
                    copy_(*(part(agents, member.rows) for agents in (self.best, self.waiting[k])))
        for member, file in zip(self.members, events, strict=True):
            if finite[member.place - len(self.members)]:  # at the last of the points
                for tag, value in self.cohort.diagnostics(member.place).items():
                    file.add_scalar(tag, value, self.cohort.steps)
        self.waiting = []


class CohortMember:
    """A member of a cohort as a ``Member`` of ``wnrl.runs``."""

    metrics = AgentRun.metrics

    def __init__(self, run: CohortRun, place: int) -> None:
        self.run, self.place, self.rows = run, place, slice(place, place + 1)
        self.machine, self.identity = run.machine, run.identity
        self.total_steps = run.plan.total_timesteps
        self.curve = Curve(self.total_steps / run.plan.eval_points)
        self.recent: deque[tuple[float, float]] = deque(maxlen=RECENT)
        self.best_step = 0

    @property
    def step(self) -> int:
        """Environment steps done."""
        return self.run.cohort.steps

    def state(self) -> dict[str, Any]:
        """Return everything that ``restore`` needs."""
        self._check_finite()
        run, rows = self.run, self.rows
        run.note_episodes()
        return {
            "networks": {"cohort": run.cohort.state(rows), **clone(part(run.agents, rows))},
            "step": self.step,
            "points": run.points,
            "curve": asdict(self.curve),
            "best_step": self.best_step,
            "recent": [list(pair) for pair in self.recent],
            "seconds": run.seconds / len(run.members),  # they may go on in other company
        }

    def restore(self, state: Mapping[str, Any]) -> str:
        """Go to where ``state`` was taken, which was at one step for all members."""
        run, networks = self.run, state["networks"]
        run.cohort.restore(networks["cohort"], self.rows)
        run.waiting = run.waiting or [clone(run.best) for _ in networks["waiting"]]
        put_back_(part(run.agents, self.rows), networks)
        run.points, run.seconds = state["points"], state["seconds"] * len(run.members)
        self.curve, self.best_step = Curve(**state["curve"]), state["best_step"]
        self.recent.extend((r, n) for r, n in state["recent"])
        return ""

    def report(self) -> dict[str, Any]:
        """Return what the result has of training.

        ``steps_per_second`` is that of all members of the batch, ``batch_members``, together: what
        one process trains in a second.
        """
        n_members = len(self.run.members)
        return {
            "steps": self.step,
            "steps_per_second": n_members * self.step / self.run.seconds,
            "batch_members": n_members,
            "parameters": self.run.cohort.agents.params.shape[1],
            "curve": self.curve.as_json(),
            "plain_parts": self.run.plain_parts,
        }

    def measure(self, folder: Path) -> dict[str, Any]:
        """Write the agent and the best one on its curve into ``folder``, and evaluate both."""
        self._check_finite()
        cohort, place = self.run.cohort, self.place
        returns, best_returns = (each[place] for each in self.run.returns)
        self._save(folder, "", self.step, cohort.agents)
        self._save(folder, BEST, self.best_step, self.run.best)
        return evaluations(self.curve, returns, self.best_step, best_returns)

    def _save(self, folder: Path, prefix: str, step: int, agents: Agents) -> None:
        cohort, place = self.run.cohort, self.place
        policy = cohort.member_state(place, agents)
        statistics = cohort.member_statistics(place, agents)
        agent = {"step": step, "policy": policy, "statistics": statistics}
        save_snapshot(self.run.to_sb3(place, agents), agent, folder, prefix)

    def _check_finite(self) -> None:
        if not self.run.cohort.finite()[self.place]:
            step = self.curve.steps[-1] if self.curve.steps else 0
            raise NonFiniteError(
                f"the network's parameters became NaN or infinite after step {step}"
            )
