"""Actor and critic with a recurrent layer each, as sb3-contrib's policies have them."""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from wnrl.norms import NORMS
from wnrl.population.actor_critic import ActorCritic
from wnrl.population.distributions import Distribution
from wnrl.population.recurrence import Memories
from wnrl.population.rollout import Act, Batch
from wnrl.population.rows import LOG_STD, Layout, Tensors, below
from wnrl.population.vmapped import OF_MEMBERS, Goal, Modules, ppo_loss

CELLS: dict[str, tuple[type[nn.Module], int]] = {"lstm": (nn.LSTM, 2), "gru": (nn.GRU, 1)}
"""Recurrent layers and their numbers of states."""


class RecurrentActorCritic(ActorCritic):
    """``ActorCritic`` whose hidden layers stand behind recurrent ones, one for each network."""

    def n_features(self, config: Any, n_inputs: int) -> int:
        """Return how many numbers the hidden layers are given."""
        return int(config.lstm_hidden_size)

    def add_memory(self, config: Any, n_inputs: int) -> None:
        """Add the recurrent layers, with the norm where it has a recurrent form."""
        # RecurrentPPO's policy draws LSTMs first, also where GRUs take their place.
        for cell in dict.fromkeys(("lstm", config.cell)):
            make: Any = CELLS[cell][0]
            rnns = [
                make(n_inputs, config.lstm_hidden_size, num_layers=config.n_lstm_layers)
                for _ in range(2)
            ]
        norm = NORMS[config.norm]
        if (kind := norm.layers.get(type(rnns[0]))) is not None:
            options = {k: v for k, v in config.norm_kwargs.items() if k in norm.layer_options}
            rnns = [kind.from_plain(rnn, **options) for rnn in rnns]
        elif norm.mark is not None and norm.after_step is not None:
            for rnn in rnns:
                norm.mark(rnn)
                norm.after_step(rnn)
        self.lstm_actor, self.lstm_critic = rnns

    def networks(self) -> list[nn.Sequential]:
        """Return the networks as their parts ``rnn`` and ``mlp``."""
        pairs = zip((self.lstm_actor, self.lstm_critic), super().networks(), strict=True)
        return [nn.Sequential(OrderedDict(rnn=rnn, mlp=mlp)) for rnn, mlp in pairs]


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
    """Computes what the networks of a cohort give, and the gradients of PPO's loss.

    The layers are run by ``torch.func``; LSTMs step through time by formula.
    """

    def __init__(self, config: Any, plan: Layout, distribution: Distribution) -> None:
        super().__init__(plan, distribution)
        self.memory = (2, config.n_lstm_layers, CELLS[config.cell][1], config.lstm_hidden_size)

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
        self, params: Tensors, buffers: Tensors, samples: Sequences, goal: Goal
    ) -> Tensors:
        """Return gradients by name; running statistics move in ``buffers``."""
        with torch.enable_grad():
            leaves = {name: v.detach().requires_grad_() for name, v in params.items()}
            run = runner(self.learning, leaves, buffers)
            outputs = run(samples.x, samples.given, samples.continues)[0].unflatten(0, (-1, 2))
            loss = vmap(
                partial(ppo_loss, distribution=self.distribution),
                in_dims=(0, 0, 0, 0, OF_MEMBERS),
            )(outputs[:, 0], outputs[:, 1, :, 0], leaves[LOG_STD][::2], samples.batch, goal)
            # Discrete actions have no deviation.
            computed = torch.autograd.grad(loss.sum(), [*leaves.values()], materialize_grads=True)
        return dict(zip(leaves, computed, strict=True))


def runner(
    net: nn.Module, params: Tensors, buffers: Tensors
) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return networks like ``net`` as a function of inputs and states, as ``Memories`` takes them.

    It gives the outputs ``(2P, T * N, A)`` and the states at the end.
    """
    mlp = net.get_submodule("mlp")
    memories = Memories(net.get_submodule("rnn"), below(params, "rnn."), below(buffers, "rnn."))
    tensors = below(params, "mlp."), below(buffers, "mlp.")

    def run(x: Tensor, given: Tensor, continues: Tensor) -> tuple[Tensor, Tensor]:
        y, states = memories.run(x, given, continues)
        outputs = vmap(lambda p, b, y: functional_call(mlp, (p, b), (y,)))(
            *tensors, y.flatten(1, 2)
        )
        return outputs, states

    return run


def twice(value: Tensor) -> Tensor:
    """``(P, ...) -> (2P, ...)``: the same for both networks of a member."""
    return for_both(value[:, None].expand(-1, 2, *value.shape[1:]))


def for_both(value: Tensor) -> Tensor:
    """``(P, 2, ...) -> (2P, ...)``, a contiguous tensor: sums in one order for any P."""
    return value.flatten(0, 1).contiguous()
