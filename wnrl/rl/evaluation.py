"""Evaluation on environments of their own, and what it costs."""

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from sb3_contrib.common.maskable import evaluation as masked
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv

from wnrl import tags
from wnrl.errors import check_positive
from wnrl.rl.environments import LONGEST_EPISODE, n_cut
from wnrl.rl.masks import uses_masks
from wnrl.rl.training import telling_non_finite
from wnrl.sb3 import check_finite


def evaluate(
    model: BaseAlgorithm, env: VecEnv, n_episodes: int, seed: int, deterministic: bool = True
) -> tuple[list[float], list[int]]:
    """Play episodes from the same starts at each call.

    Args:
        model: The agent.
        env: From ``vectorize_for_evaluation``; episodes are shared out evenly.
        n_episodes: How many.
        seed: Of the first environment's starts.
        deterministic: Whether the most likely actions are taken, or drawn ones.

    Returns:
        Return and length of each episode, in the order in which they ended.

    Raises:
        UsageError: ``n_episodes`` is not above zero.
        NonFiniteError: The agent's distribution over actions is not finite, or what the environment
            gives is not.
    """
    check_positive(n_episodes=n_episodes)
    env.seed(seed)
    cut_before = n_cut(env)
    with telling_non_finite(model):
        play: Any = masked.evaluate_policy if uses_masks(model, env) else evaluate_policy
        returns, lengths = play(
            model,
            env,
            n_eval_episodes=n_episodes,
            deterministic=deterministic,
            return_episode_rewards=True,
        )
    if n_cut(env) > 0 == cut_before:
        print(
            f"evaluation: episodes were cut after {LONGEST_EPISODE} steps, since the environment "
            "sets no limit; --max-episode-steps sets one",
            file=sys.stderr,
        )
    lengths_played = [int(n) for n in cast(list[int], lengths)]
    return [float(r) for r in cast(list[float], returns)], lengths_played


@dataclass
class Curve:
    """The learning curve of a run: evaluations at evenly spaced steps."""

    every: float
    """Environment steps between points."""
    steps: list[int] = field(default_factory=list)
    """Environment steps before each evaluation."""
    returns: list[float] = field(default_factory=list)
    """The mean return of each."""

    def as_json(self) -> dict[str, list[Any]]:
        """Return steps, and returns under their tag."""
        return {"steps": self.steps, tags.EVAL_RETURN: self.returns}

    @property
    def best(self) -> int:
        """The place of the highest return, the first of equals; the curve is not empty."""
        return int(np.argmax(self.returns))

    @property
    def window(self) -> float:
        """The mean return over the last tenth of the evaluations, at least one."""
        return float(np.mean(self.returns[-math.ceil(len(self.returns) / 10) :]))


class EvaluateInTraining(BaseCallback):
    """Evaluates where a point of the curve is due, the last time after the last update.

    It happens between updates and rollouts, draws no random numbers that training uses, and its
    time is kept apart. A network that is not finite is not evaluated: NonFiniteError.

    Args:
        env: From ``vectorize_for_evaluation``.
        curve: Gets the points; they fall on the ends of updates, so that there are fewer where
            training has fewer updates.
        n_episodes: Episodes of each.
        seed: Of the starts, the same for each evaluation.
        on_best: Called after each evaluation that is better than all before it.

    Attributes:
        seconds: Time spent here.
    """

    def __init__(
        self,
        env: VecEnv,
        curve: Curve,
        n_episodes: int,
        seed: int,
        on_best: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        check_positive(every=curve.every, n_episodes=n_episodes)
        self.env, self.curve, self.n_episodes, self.seed = env, curve, n_episodes, seed
        self.on_best = on_best
        self.seconds = 0.0

    def _on_rollout_start(self) -> None:
        if self.num_timesteps >= self.curve.every * (len(self.curve.steps) + 1):
            self._evaluate_once()

    def _on_training_end(self) -> None:
        self._evaluate_once()

    def _on_step(self) -> bool:
        return True

    def _evaluate_once(self) -> None:
        if self.num_timesteps in self.curve.steps[-1:]:  # before the checkpoint, say
            return
        start = time.perf_counter()
        check_finite(self.model)  # a greedy agent of NaN plays on, and could be the best so far
        returns, lengths = evaluate(self.model, self.env, self.n_episodes, self.seed)
        self.curve.steps.append(self.num_timesteps)
        self.curve.returns.append(float(np.mean(returns)))
        self.logger.record(tags.EVAL_RETURN, self.curve.returns[-1])
        self.logger.record(tags.EVAL_LENGTH, float(np.mean(lengths)))
        self.logger.dump(self.num_timesteps)
        if self.curve.best == len(self.curve.returns) - 1:
            self.on_best()
        self.seconds += time.perf_counter() - start
