"""One run of an agent from its first step, or from a checkpoint, to its result."""

import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from wnrl.errors import NonFiniteError
from wnrl.rl.checkpoint import Checkpoint
from wnrl.rl.compiling import CompileUpdates
from wnrl.rl.environments import (
    CURVE_STARTS,
    FINAL_STARTS,
    Factory,
    first_env_seed,
    vectorize_for_evaluation,
)
from wnrl.rl.evaluation import EvaluateInTraining, evaluate
from wnrl.rl.loading import load_statistics
from wnrl.rl.training import Model, Progress, ReportProgress, SaveCheckpoints, learn, save
from wnrl.runs.interrupts import Interrupts

BEST = "best_"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long a run trains, and when it evaluates and saves."""

    seed: int
    total_timesteps: int
    eval_episodes: int
    """Episodes of each evaluation after training."""
    eval_points: int
    """Evaluations during training, for the learning curve."""
    eval_point_episodes: int
    """Episodes of each of them."""
    checkpoint_minutes: float
    """Time between resume checkpoints."""
    keep_checkpoint: bool
    """Whether there is one after the last update."""


class Session:
    """A model in its run folder.

    Args:
        plan: what to do.
        model: built for the run, and logging to its folder.
        factory: makes one environment, to evaluate in.
        run_dir: the folder.
        checkpoint: where ``model`` comes from; None at the first step.
        started: when the program began, by ``time.perf_counter``.
        compiling: compiles updates.
    """

    def __init__(
        self,
        plan: Plan,
        model: Model,
        factory: Factory,
        run_dir: Path,
        checkpoint: Checkpoint | None,
        started: float,
        compiling: CompileUpdates | None = None,
    ) -> None:
        self.compiling = compiling
        self.plan, self.model, self.factory, self.run_dir = plan, model, factory, run_dir
        self.checkpoint = checkpoint
        earlier = checkpoint.extra if checkpoint else {}
        self.parts = earlier.get("parts", 0) + 1
        self.seconds = earlier.get("seconds", 0.0)  # of rollouts and updates
        self.started = started - earlier.get("wall_time", 0.0)
        if checkpoint is not None and not checkpoint.episodes_go_on:
            assert model.env is not None  # other episodes than those that the run began with
            place = (self.parts - 1) * model.n_envs % CURVE_STARTS
            model.env.seed(first_env_seed(plan.seed) + place)

    @property
    def wall_time(self) -> float:
        """Seconds since the run began, without those in which it was stopped."""
        return time.perf_counter() - self.started

    def learn(self, progress: Progress) -> dict[str, Any]:
        """Trains the model and returns what became of it, with its learning curve.

        Raises:
            Stopped: a signal came; the checkpoint is written.
        """
        plan, model, steps = self.plan, self.model, self.plan.total_timesteps
        result: dict[str, Any] = {"status": "finished"}
        n_episodes = plan.eval_point_episodes
        with (
            closing(vectorize_for_evaluation(self.factory, n_episodes, model.env)) as env,
            Interrupts() as interrupts,
        ):
            self.points = points = EvaluateInTraining(
                env,
                plan.eval_points,
                n_episodes,
                steps,
                first_env_seed(plan.seed) + CURVE_STARTS,
                on_best=lambda: save(model, self.run_dir, BEST),
            )
            if self.checkpoint is not None:
                points.go_on(self.checkpoint.extra["curve"])
            saving = SaveCheckpoints(
                self.run_dir,
                plan.checkpoint_minutes,
                lambda: {
                    "curve": points.state(),
                    "parts": self.parts,
                    "seconds": training_seconds(),
                    "wall_time": self.wall_time,
                },
                interrupts,
                at_end=plan.keep_checkpoint,
                late=self.checkpoint.late if self.checkpoint else None,
            )
            began = time.perf_counter()

            def training_seconds() -> float:
                now = time.perf_counter() - began
                return self.seconds + now - points.seconds - saving.seconds

            report = ReportProgress(progress, steps)
            try:
                callbacks: list[BaseCallback] = [self.compiling] if self.compiling else []
                callbacks += [points, report, saving]
                learn(model, steps, *callbacks, resumed=self.checkpoint is not None)
            except NonFiniteError as error:
                result = {"status": "failed", "reason": str(error)}
            seconds = training_seconds()
        return {
            **result,
            "steps": model.num_timesteps,
            "steps_per_second": model.num_timesteps / seconds,
            "curve": points.curve.as_json(),
            "plain_parts": model.policy.plain_parts,
        }

    def final_evaluation(self) -> dict[str, Any]:
        """What the evaluations after training add to the result.

        The model has the parameters of the best agent afterwards.
        """
        curve = self.points.curve
        try:
            returns = self._play("")
            best = returns
            if curve.steps[curve.best] != self.model.num_timesteps:
                self.model.set_parameters(str(self.run_dir / f"{BEST}model.zip"))
                best = self._play(BEST)
        except NonFiniteError as error:
            return {"status": "failed", "reason": str(error)}
        return {
            "final_return": float(np.mean(returns)),
            "eval_returns": returns,
            "window_return": curve.window,
            "best_return": float(np.mean(best)),
            "best_step": curve.steps[curve.best],
        }

    def _play(self, prefix: str) -> list[float]:
        """The returns of the model, with the statistics of observations that belong to it."""
        n_envs = min(self.plan.eval_episodes, 20)
        starts = first_env_seed(self.plan.seed) + FINAL_STARTS
        statistics = self.run_dir / f"{prefix}vecnormalize.pkl"
        with closing(vectorize_for_evaluation(self.factory, n_envs, None)) as raw:
            env = load_statistics(raw, statistics) if self.model.get_vec_normalize_env() else raw
            returns, _ = evaluate(self.model, env, self.plan.eval_episodes, starts)
        return returns
