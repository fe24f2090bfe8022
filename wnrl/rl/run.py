"""An agent as work of ``wnrl.runs``: it trains, can be saved and restored, and is measured."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat
from stable_baselines3.common.vec_env import VecEnv

from wnrl import tags
from wnrl.rl import compiling, env_state, environments, evaluation, recording, statistics
from wnrl.rl.environments import CURVE_STARTS, FINAL_STARTS, Factory, first_env_seed
from wnrl.rl.evaluation import Curve, evaluate
from wnrl.rl.model_state import model_state, restore_late, restore_model
from wnrl.rl.snapshots import BEST, Model, become, save_snapshot, snapshot
from wnrl.runs import EventFile
from wnrl.sb3 import Diagnostics, StopAtNonFinite, check_finite
from wnrl.sb3.parts import trained_parts

AT_ONCE = 20  # environments of the evaluation after training
METRICS: Mapping[str, str] = {
    tags.FINAL_RETURN: "final_return",
    tags.STEPS_PER_SECOND: "steps_per_second",
}
"""From tags of TensorBoard's HParams tab to keys of the result."""


@dataclass(frozen=True)
class Plan:
    """How long a run trains, and how it is evaluated."""

    seed: int
    total_timesteps: int
    eval_episodes: int
    """Episodes of each evaluation after training."""
    eval_points: int
    """Evaluations during training, for the learning curve."""
    eval_point_episodes: int
    """Episodes of each of them."""


@dataclass(eq=False)
class AgentRun:
    """A model and how it is trained: a ``Work`` of ``wnrl.runs``."""

    plan: Plan
    """What to do."""
    model: Model
    """Built for the run."""
    factory: Factory
    """Makes one environment, to evaluate in."""
    machine: Mapping[str, Any]
    """``device`` and ``threads`` as they were settled."""
    identity: Mapping[str, Any]
    """What TensorBoard's HParams tab says besides the settings."""
    compiled: Sequence[str] = ()
    """Methods that ``train`` calls and that are to be compiled."""
    frame_stack: int | None = None
    """As ``vectorize`` had it."""
    drawn: Factory | None = None
    """Makes one environment that can be drawn, to film the trained agent in; None: no film."""
    metrics = METRICS

    def __post_init__(self) -> None:
        self.total_steps = self.plan.total_timesteps
        self.curve = Curve(self.total_steps / self.plan.eval_points)
        self.best: dict[str, Any] = {}
        self.parts = 1
        self.seconds = 0.0  # of rollouts and updates
        self._late: Mapping[str, Any] | None = None
        self._in_rollout = False

    @property
    def step(self) -> int:
        """Environment steps done."""
        return self.model.num_timesteps

    def state(self) -> dict[str, Any]:
        """Return everything that ``restore`` needs.

        Raises:
            NonFiniteError: The network is not finite.
        """
        check_finite(self.model)
        assert self.model.env is not None
        return {
            "model": model_state(self.model, in_rollout=self._in_rollout),
            "envs": env_state.save_envs(self.model.env),
            "curve": asdict(self.curve),
            "best": self.best,
            "parts": self.parts,
            "seconds": self.seconds,
        }

    def restore(self, state: Mapping[str, Any]) -> str:
        """Go to where ``state`` was taken; return what is to be told of it."""
        model = self.model
        assert model.env is not None
        goes_on = env_state.load_envs(model.env, state["envs"])
        restore_model(model, state["model"], episodes_go_on=goes_on)
        self._late = state["model"]["late"]
        self.curve, self.best = Curve(**state["curve"]), state["best"]
        self.parts, self.seconds = state["parts"] + 1, state["seconds"]
        if goes_on:
            return ""
        place = (self.parts - 1) * model.n_envs % CURVE_STARTS  # other episodes than the first ones
        model.env.seed(first_env_seed(self.plan.seed) + place)
        return "the environments could not be saved, so that episodes begin anew"

    def train(self, events: EventFile, between: Callable[[], None]) -> None:
        """Train to the last step.

        Args:
            events: Where curves go.
            between: Called before each rollout; then ``state`` may be taken.

        Raises:
            NonFiniteError: Something became NaN or infinite.
        """
        model, n_episodes, begun = self.model, self.plan.eval_point_episodes, self.step
        log_to(model, events)
        starts = first_env_seed(self.plan.seed) + CURVE_STARTS
        with (
            closing(self._environments(n_episodes, model.env)) as env,
            compiling.compiled_updates(model, self.compiled) if self.compiled else nullcontext(),
        ):
            began = time.perf_counter()

            def evaluate_here() -> None:
                if evaluation.evaluate_point(model, env, self.curve, n_episodes, starts):
                    self.best = snapshot(model)

            def before_rollout() -> None:
                nonlocal began
                self.seconds += time.perf_counter() - began
                if self.curve.is_due(self.step):
                    evaluate_here()
                self._restore_late()
                self._in_rollout = True
                between()
                began = time.perf_counter()

            pauses = BeforeRollouts(before_rollout)
            try:
                learn(model, self.total_steps, pauses, resumed=self.parts > 1)
            finally:
                self.seconds += time.perf_counter() - began
            evaluate_here()
        self._restore_late()  # where no step was left
        self._in_rollout = False
        if self.drawn is not None and self.step > begun:  # else the film is there
            drawn = partial(self._environments, 1, model.env, self.drawn)
            recording.add_film(model, drawn, first_env_seed(self.plan.seed) + FINAL_STARTS, events)

    def report(self) -> dict[str, Any]:
        """Return what the result has of training."""
        trained = trained_parts(self.model.policy).parameters()
        return {
            "steps": self.step,
            "steps_per_second": self.step / self.seconds,
            "parameters": sum(parameter.numel() for parameter in trained),
            "curve": self.curve.as_json(),
            "plain_parts": self.model.policy.plain_parts,
        }

    def measure(self, folder: Path) -> dict[str, Any]:
        """Write the agent and the best one on its curve into ``folder``, and evaluate both.

        Raises:
            NonFiniteError: The agent, or what the environment gives, is not finite.
        """
        trained, best = snapshot(self.model), self.best
        for prefix, agent in (("", trained), (BEST, best)):
            save_snapshot(self.model, agent, folder, prefix)
        returns = self._play(trained)
        best_returns = returns if best["step"] == trained["step"] else self._play(best)
        become(self.model, trained)
        return evaluations(self.curve, returns, best["step"], best_returns)

    def _play(self, agent: Mapping[str, Any]) -> list[float]:
        """Return the returns of an evaluation after training."""
        become(self.model, agent)
        episodes, numbers = self.plan.eval_episodes, agent["statistics"]
        starts = first_env_seed(self.plan.seed) + FINAL_STARTS
        with closing(self._environments(min(episodes, AT_ONCE))) as raw:
            env = raw if numbers is None else statistics.with_statistics(raw, numbers)
            return evaluate(self.model, env, episodes, starts)[0]

    def _environments(
        self, n_envs: int, training: VecEnv | None = None, drawn: Factory | None = None
    ) -> VecEnv:
        """Return environments to evaluate in."""
        make = drawn or self.factory
        return environments.vectorize_for_evaluation(make, n_envs, training, self.frame_stack)

    def _restore_late(self) -> None:
        if self._late is not None:
            restore_late(self.model, self._late)
            self._late = None


def evaluations(
    curve: Curve, returns: list[float], best_step: int, best_returns: list[float]
) -> dict[str, Any]:
    """Return what the result of a run has of its evaluations.

    Args:
        curve: Of those during training.
        returns: Of the trained agent's episodes.
        best_step: Behind which step the agent was best on the curve.
        best_returns: Of that agent's episodes after training.
    """
    return {
        "final_return": float(np.mean(returns)),
        "eval_returns": returns,
        "window_return": curve.window,
        "best_return": float(np.mean(best_returns)),
        "best_step": best_step,
    }


def learn(
    model: Model, total_timesteps: int, *callbacks: BaseCallback, resumed: bool = False
) -> None:
    """Train ``model``, with the lengths of weight-normalized layers in its logs.

    Args:
        model: The agent.
        total_timesteps: Environment steps of the whole run.
        *callbacks: Called in this order, after those of this function.
        resumed: Whether ``model`` has made some of these steps already.

    Raises:
        NonFiniteError: An observation, a reward, a loss, a parameter or the policy's distribution
            became NaN or infinite.
    """
    steps = total_timesteps - model.num_timesteps if resumed else total_timesteps
    every = [StopAtNonFinite(), Diagnostics(), *callbacks]
    with evaluation.telling_non_finite(model):
        model.learn(max(0, steps), every, reset_num_timesteps=not resumed)


class BeforeRollouts(BaseCallback):
    """Calls a function before each rollout, where nothing is half done."""

    def __init__(self, function: Callable[[], None]) -> None:
        super().__init__()
        self.function = function

    def _on_rollout_start(self) -> None:
        self.function()

    def _on_step(self) -> bool:
        return True


class _ToEvents(TensorBoardOutputFormat):
    """SB3's output, into an event file that is there; SB3's own begins one."""

    def __init__(self, events: EventFile) -> None:
        self.writer = events  # type: ignore[assignment]  # which has what SB3 calls of it
        self._is_closed = False


def log_to(model: Model, events: EventFile) -> None:
    """Send what ``model`` logs to ``events``, and nowhere else."""
    model.set_logger(Logger(None, [_ToEvents(events)]))
