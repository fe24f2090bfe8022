"""Episodes with the likeliest actions, of all members side by side."""

import torch
from torch import Tensor

from wnrl.population.distributions import Distribution
from wnrl.population.random import fork, uniform
from wnrl.population.rollout import EVALUATION, ActWithMemory, first_episodes
from wnrl.population.statistics import Scaling
from wnrl.tensor_envs.core import TensorEnv, advance

LOOK_EVERY = 50
"""Steps between two looks at whether all episodes have ended: each one waits for the device."""


def evaluate(
    act: ActWithMemory,
    memory: Tensor,
    scaling: Scaling,
    statistics: Tensor,
    env: TensorEnv,
    distribution: Distribution,
    keys: Tensor,
    start: int,
) -> tuple[Tensor, Tensor]:
    """Play an episode in each of N environments.

    They start apart from those of training, and each member's in its own places.

    Args:
        act: the networks as they act.
        memory: theirs at the start of an episode, ``(P, N, ...)``.
        scaling: of observations.
        statistics: of it, ``(P, D)``, not changed.
        env: the environment.
        distribution: of actions.
        keys: of the members, ``(P,)``.
        start: the number of the first of these starts; the same number, the same starts.

    Returns:
        Return and length of each episode, ``(P, N)``.
    """
    n_episodes, dtype, streams = memory.shape[1], memory.dtype, fork(keys, EVALUATION)
    episodes = first_episodes(env, streams, start, n_episodes, dtype)
    returns = torch.zeros_like(episodes.steps, dtype=dtype)
    lengths = torch.zeros_like(episodes.steps)
    alive = torch.ones_like(returns, dtype=torch.bool)
    each = env.step_draws + env.reset_draws
    streams = fork(streams, start)
    for t in range(env.max_episode_steps):
        n = n_episodes * each
        u = uniform(streams, t * n, n, dtype).view(*returns.shape, each)
        head, _, memory = act(scaling.obs(statistics, episodes.obs), memory)
        actions = distribution.to_env(distribution.mode(head))
        episodes, step = advance(env, episodes, actions, u)
        returns += step.rewards * alive
        lengths += alive
        alive &= ~(step.terminated | step.truncated)
        if t % LOOK_EVERY == LOOK_EVERY - 1 and not alive.any():
            break
    return returns, lengths
