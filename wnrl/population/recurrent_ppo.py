"""PPO with LSTMs or GRUs of many members at once, as sb3-contrib's RecurrentPPO.

States go on from rollout to rollout and are zero where an episode begins. An epoch begins at a
random sample, and its minibatches are what follows: of ``batch_size`` samples, so that all of them
are whole sequences of ``n_steps``, but for one that is cut where the minibatch begins. There, and
at the first step of a rollout, a sequence begins with the states that the rollout had.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from wnrl.population.backend import Modules
from wnrl.population.cohort import ORDERS
from wnrl.population.config import RecurrentPPOConfig
from wnrl.population.losses import Loss
from wnrl.population.ppo import PPO
from wnrl.population.random import Number, fork, uniform
from wnrl.population.recurrence import Run, recurrent
from wnrl.population.rollout import Act, Batch, Past, pick
from wnrl.population.rows import LOG_STD, Tensors, below
from wnrl.tensor_envs.core import beside


class Sequences(NamedTuple):
    """A minibatch of whole sequences of T steps, for both networks of each member."""

    batch: Batch
    """``(P, T * N, ...)`` with time first."""
    x: Tensor
    """``(2P, T, N, n_inputs)``."""
    given: Tensor
    """States with which sequences begin, and zero elsewhere, ``(2P, T, N, L, S, H)``."""
    continues: Tensor
    """Zero where a sequence begins, else one, ``(2P, T, N, 1)``."""


class RecurrentNetworks(Modules):
    """Computes what the networks of a cohort give, and the gradients of a loss.

    The layers are run by ``torch.func``; LSTMs step through time by formula.
    """

    def act(self, params: Tensor, buffers: Tensor) -> Act:
        """Return the networks in evaluation mode, for a rollout."""
        run = runner(self.acting, self.plan.views(params), self.plan.buffer_views(buffers))

        def act(obs: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            given = for_both(memory.movedim(2, 1))
            continues = obs.new_zeros(len(given), 1, obs.shape[1], 1)
            outputs, states = run(twice(obs)[:, None], given[:, None], continues)
            outputs = outputs.unflatten(0, (-1, 2))
            return outputs[:, 0], outputs[:, 1, :, 0], states.unflatten(0, (-1, 2)).movedim(1, 2)

        return act

    def gradients(
        self, params: Tensors, buffers: Tensors, samples: Sequences, loss: Loss
    ) -> Tensors:
        """Return gradients by name; running statistics move in ``buffers``."""
        with torch.enable_grad():
            leaves = {name: v.detach().requires_grad_() for name, v in params.items()}
            run = runner(self.learning, leaves, buffers)
            outputs = run(samples.x, samples.given, samples.continues)[0].unflatten(0, (-1, 2))
            total = loss.value(outputs, leaves[LOG_STD][::2], samples.batch).sum()
            # Discrete actions have no deviation.
            computed = torch.autograd.grad(total, [*leaves.values()], materialize_grads=True)
        return dict(zip(leaves, computed, strict=True))


def runner(net: nn.Module, params: Tensors, buffers: Tensors) -> Run:
    """Return networks like ``net`` as a function, as ``recurrent`` returns their memory.

    It gives the outputs ``(2P, T * N, A)`` and the states at the end.
    """
    rnn, mlp = net.get_submodule("rnn"), net.get_submodule("mlp")
    remember = recurrent(rnn, below(params, "rnn."), below(buffers, "rnn."))
    tensors = below(params, "mlp."), below(buffers, "mlp.")

    def run(x: Tensor, given: Tensor, continues: Tensor) -> tuple[Tensor, Tensor]:
        y, states = remember(x, given, continues)
        outputs = vmap(lambda p, b, y: functional_call(mlp, (p, b), (y,)))(
            *tensors, y.flatten(1, 2)
        )
        return outputs, states

    return run


class RecurrentPPO(PPO):
    """A cohort whose networks have a memory; arguments as ``PPO`` has them."""

    member = RecurrentPPOConfig.of
    config: RecurrentPPOConfig

    def _networks(self, formulas: bool) -> RecurrentNetworks:
        return RecurrentNetworks(self.plan)

    def _orders(self, iteration: Number) -> Tensor:
        """Return the first sample of each epoch, ``(n_epochs, P)``."""
        config = self.config
        start = iteration * config.n_epochs
        u = uniform(fork(self.keys, ORDERS), start, config.n_epochs, torch.float64)
        return (u * config.samples).long().T

    def _minibatches(self, batch: Batch, past: Past, order: Any) -> Sequence[Sequences]:
        pieces = sequences(batch, past, order, self.config.n_steps, self.config.batch_size)
        return [piece._replace(batch=self._standardised(piece.batch)) for piece in pieces]


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


def twice(value: Tensor) -> Tensor:
    """``(P, ...) -> (2P, ...)``: the same for both networks of a member."""
    return for_both(value[:, None].expand(-1, 2, *value.shape[1:]))


def for_both(value: Tensor) -> Tensor:
    """``(P, 2, ...) -> (2P, ...)``, a contiguous tensor: sums in one order for any P."""
    return value.flatten(0, 1).contiguous()
