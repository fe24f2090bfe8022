"""PPO with LSTMs or GRUs of many members at once, as sb3-contrib's RecurrentPPO.

States go on from rollout to rollout and are zero where an episode begins. An epoch begins at a
random sample, and its minibatches are what follows: of ``batch_size`` samples, so that all of them
are whole sequences of ``n_steps``, but for one that is cut where the minibatch begins. There, and
at the first step of a rollout, a sequence begins with the states that the rollout had.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from wnrl.population.cohort import ORDERS
from wnrl.population.config import RecurrentPPOConfig
from wnrl.population.ppo import PPO
from wnrl.population.random import fork, uniform
from wnrl.population.recurrent_networks import (
    RecurrentActorCritic,
    RecurrentNetworks,
    Sequences,
    for_both,
    twice,
)
from wnrl.population.rollout import Batch, Past, pick
from wnrl.population.rows import Networks
from wnrl.tensor_envs.core import beside


class RecurrentPPO(PPO):
    """A cohort whose networks have a memory; arguments as ``PPO`` has them."""

    member = RecurrentPPOConfig.of
    kind: ClassVar[type[Networks]] = RecurrentActorCritic
    config: RecurrentPPOConfig

    def _networks(self, formulas: bool) -> RecurrentNetworks:
        return RecurrentNetworks(self.config, self.plan, self.distribution)

    def _orders(self, iteration: int | Tensor) -> Tensor:
        """Return the first sample of each epoch, ``(n_epochs, P)``."""
        config = self.config
        start = iteration * config.n_epochs
        u = uniform(fork(self.keys, ORDERS), start, config.n_epochs, torch.float64)
        return (u * config.samples).long().T

    def _minibatches(
        self, batch: Batch, past: Past, orders: Tensor | None, epoch: int
    ) -> Sequence[Sequences]:
        assert orders is not None
        return sequences(batch, past, orders[epoch], self.config.n_steps, self.config.batch_size)


def sequences(batch: Batch, past: Past, first: Tensor, n_steps: int, size: int) -> list[Sequences]:
    """Return minibatches of ``size`` samples from sample ``first`` on, round to the one before it.

    Args:
        batch: samples ``(P, N * T, ...)``; sample ``n * T + t`` is step t of environment n.
        past: the like.
        first: ``(P,)``.
        n_steps: T.
        size: a multiple of it, or at least N * T.
    """
    n_envs = batch.log_probs.shape[1] // n_steps
    env, cut = (first // n_steps)[:, None, None], (first % n_steps)[:, None, None]
    steps = torch.arange(n_steps, device=first.device)[:, None]
    pieces = []
    for rows in torch.arange(n_envs, device=first.device).split(size // n_steps):
        # The first row has what lies behind the cut, and before it the end of the minibatch.
        at_front = (rows == rows[0]) & (steps < cut)
        envs = (env + rows + at_front * len(rows)) % n_envs
        places = (envs * n_steps + steps).flatten(1)  # (P, T, rows) -> (P, T * rows)
        picked = Batch(*(pick(value, places) for value in batch))
        begins = (steps == 0) | ((rows == rows[0]) & (steps == cut))
        shape = n_steps, len(rows)
        memory, starts = (pick(value, places).unflatten(1, shape) for value in past)
        begins = begins | starts
        x, given = picked.obs.unflatten(1, shape), memory * beside(begins, memory)
        continues = twice((~begins).to(memory.dtype)[..., None])
        pieces.append(Sequences(picked, twice(x), for_both(given.movedim(3, 1)), continues))
    return pieces
