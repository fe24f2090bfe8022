"""Evaluation on environments of their own, and what it costs."""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable import evaluation as masked
from sb3_contrib.common.maskable.utils import get_action_masks
from stable_baselines3 import TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv

from wnrl import tags
from wnrl.errors import NonFiniteError, UsageError
from wnrl.rl.environments import LONGEST_EPISODE, Bounded
from wnrl.sb3 import check_finite
from wnrl.sb3.callbacks import write

REFUSED = "to satisfy the constraint"  # of a ValueError of torch's distributions


@contextmanager
def telling_non_finite(model: BaseAlgorithm) -> Iterator[None]:
    """Say after how many steps something was not finite.

    torch's distributions refuse a NaN with a ValueError, before any loss is logged; the parameters
    of ``model`` may still be finite then, though too large to compute with.

    Raises:
        NonFiniteError: In the place of that ValueError, and of one that does not say the steps.
    """
    try:
        yield
    except (NonFiniteError, ValueError) as error:
        reason = str(error)
        if isinstance(error, ValueError):
            check_finite(model)
            if REFUSED not in reason:
                raise
            reason = f"torch.distributions: {reason.partition(' (Tensor')[0]}"
        if reason.startswith("not finite after"):
            raise
        raise NonFiniteError(f"not finite after {model.num_timesteps} steps: {reason}") from error


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
        UsageError: Actions are to be drawn by an agent that draws none.
        NonFiniteError: The agent's distribution over actions is not finite, or what the environment
            gives is not.
    """
    if isinstance(model, TD3) and not deterministic:  # DDPG is one
        raise UsageError("TD3 and DDPG draw no actions: in training noise is added to them")
    env.seed(seed)
    acting = acting_in(model, env, deterministic)
    with telling_non_finite(model):
        play: Any = masked.evaluate_policy if uses_masks(model, env) else evaluate_policy
        returns, lengths = play(acting, env, n_episodes, deterministic, return_episode_rewards=True)
    if max(lengths) >= LONGEST_EPISODE and env.env_is_wrapped(Bounded)[0]:
        _tell_cut()
    return [*map(float, returns)], [*map(int, lengths)]


class _Exploring:
    """Predicts with noise of gSDE that is drawn as in a rollout of SB3's.

    It holds for ``sde_sample_freq`` steps, and throughout where that is -1.
    """

    def __init__(self, model: BaseAlgorithm, n_envs: int) -> None:
        self.model, self.n_envs, self.steps = model, n_envs, 0

    def predict(self, *arguments: Any, **options: Any) -> Any:
        every = self.model.sde_sample_freq
        if self.steps % every == 0 if every > 0 else self.steps == 0:
            actor: Any = getattr(self.model, "actor", None) or self.model.policy
            actor.reset_noise(self.n_envs)
        self.steps += 1
        return self.model.predict(*arguments, **options)


def acting_in(model: BaseAlgorithm, env: VecEnv, deterministic: bool) -> Any:
    """Return what predicts an agent's actions in ``env``, from a reset on."""
    return _Exploring(model, env.num_envs) if model.use_sde and not deterministic else model


def uses_masks(model: BaseAlgorithm, env: VecEnv) -> bool:
    """Return True where the agent takes masks, and ``env`` has some."""
    return isinstance(model, MaskablePPO) and env.has_attr("action_masks")


def mask_arguments(model: BaseAlgorithm, env: VecEnv) -> dict[str, Any]:
    """Return what ``predict`` of the agent takes besides observations."""
    return {"action_masks": get_action_masks(env)} if uses_masks(model, env) else {}


@cache
def _tell_cut() -> None:
    """Say that episodes were cut, once in a process."""
    told = f"evaluation: episodes were cut after {LONGEST_EPISODE} steps"
    why = "since the environment sets no limit; --max-episode-steps sets one"
    print(f"{told}, {why}", file=sys.stderr)


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

    def is_due(self, step: int) -> bool:
        """Return True where the next point is; they fall on the ends of updates."""
        return step >= self.every * (len(self.steps) + 1)

    def add(self, step: int, mean_return: float) -> bool:
        """Add a point; return True if it is better than all before it."""
        self.steps.append(step)
        self.returns.append(mean_return)
        return int(np.argmax(self.returns)) == len(self.returns) - 1

    @property
    def window(self) -> float:
        """The mean return over the last tenth of the evaluations, at least one."""
        return float(np.mean(self.returns[-math.ceil(len(self.returns) / 10) :]))


def evaluate_point(
    model: BaseAlgorithm, env: VecEnv, curve: Curve, n_episodes: int, seed: int
) -> bool:
    """Evaluate for a point of a learning curve and log it; return True if it is the best so far.

    It draws no random numbers that training uses. A point that the curve has is not played again.

    Args:
        model: The agent, between updates and rollouts.
        env: From ``vectorize_for_evaluation``.
        curve: Gets the point.
        n_episodes: How many are played.
        seed: Of the starts, the same for each point.

    Raises:
        NonFiniteError: The network, or what the environment gives, is not finite.
    """
    step = model.num_timesteps
    if step in curve.steps[-1:]:  # before the checkpoint, say
        return False
    check_finite(model)  # a greedy agent of NaN plays on, and could be the best so far
    returns, lengths = evaluate(model, env, n_episodes, seed)
    is_best = curve.add(step, float(np.mean(returns)))
    point = {tags.EVAL_RETURN: curve.returns[-1], tags.EVAL_LENGTH: float(np.mean(lengths))}
    write(model.logger, point, step)
    return is_best
