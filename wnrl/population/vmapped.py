"""The networks of a cohort by ``torch.func``: every norm and every activation, without a formula.

The layers are wnrl's own modules, whose parameters and buffers are views of the members' rows. It
is the oracle of ``wnrl.population.hot``, which computes the same faster for some norms.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from wnrl.population.losses import Loss
from wnrl.population.rollout import Act
from wnrl.population.rows import LOG_STD, Layout, Tensors
from wnrl.population.states import axes, clone, copy_

Outputs = Callable[[Tensor], Tensor]
"""From observations ``(P, B, *shape)`` to the outputs of each network, ``(P, n_nets, B, A)``."""
Learner = Callable[[Any], None]
"""Writes the gradients on samples from ``Backend.laid_out``, and lets running statistics move."""


class Backend(ABC):
    """How the networks of a cohort act and learn: by formula or not."""

    @abstractmethod
    def outputs(self, params: Tensor, buffers: Tensor, training: bool = False) -> Outputs:
        """Return the networks in evaluation mode, or in training mode: statistics move then."""

    @abstractmethod
    def learner(self, params: Tensor, buffers: Tensor, grads: Tensor, loss: Loss) -> Learner:
        """Return what computes gradients of some members.

        Args:
            params: ``(P, D)``.
            buffers: running statistics, ``(P, D')``, which will move.
            grads: where the gradients go, ``(P, D)``.
            loss: of these members.
        """

    def laid_out(self, samples: Any) -> Any:
        """Return samples ``(P, B, ...)`` to learn from, many times if need be: as they are."""
        return samples

    def act(self, params: Tensor, buffers: Tensor) -> Act:
        """Return the networks in evaluation mode, for a rollout.

        Without a critic, the value is that of the best action.
        """
        run = self.outputs(params, buffers)

        def act(obs: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            head, *critic = run(obs).unbind(1)
            values = critic[0][..., 0] if critic else head.amax(-1)
            return head, values, memory

        return act


class Modules(Backend):
    """Networks of a cohort as wnrl's own modules, which members' rows are put into.

    Args:
        plan: the layout of the members.
    """

    def __init__(self, plan: Layout) -> None:
        self.plan = plan
        self.learning: nn.Module = copy.deepcopy(plan.net.networks()[0]).train()
        self.acting: nn.Module = copy.deepcopy(plan.net.networks()[0]).eval()

    def outputs(self, params: Tensor, buffers: Tensor, training: bool = False) -> Outputs:
        """Return the networks, as ``Backend`` has them."""
        net = self.learning if training else self.acting
        weights = self.by_member(self.plan.views(params))
        running = self.by_member(self.plan.buffer_views(buffers))
        return lambda obs: vmap(_run, in_dims=(None, 0, 0, 0))(net, weights, running, obs)

    def learner(self, params: Tensor, buffers: Tensor, grads: Tensor, loss: Loss) -> Learner:
        """Return what computes gradients of some members, as ``Backend`` has it."""
        weights, running = self.plan.views(params), self.plan.buffer_views(buffers)
        by_weights = self.plan.views(grads)

        def gradient_(samples: Any) -> None:
            # Under vmap, torch's batch norm writes statistics that are not contiguous into a copy.
            moved = clone(running)
            copy_(by_weights, self.gradients(weights, moved, samples, loss))
            copy_(running, moved)

        return gradient_

    def gradients(self, params: Tensors, buffers: Tensors, samples: Any, loss: Loss) -> Tensors:
        """Return gradients by name; running statistics move in ``buffers``."""

        def value(params: Tensors, buffers: Tensors, samples: Any, loss: Loss) -> Tensor:
            outputs = _run(self.learning, params, buffers, samples.obs)
            return loss.value(outputs, params[LOG_STD][0], samples)

        gradient = vmap(grad(value), in_dims=(0, 0, 0, axes(loss)))
        computed = gradient(self.by_member(params), self.by_member(buffers), samples, loss)
        return {name: value.flatten(0, 1) for name, value in computed.items()}

    def by_member(self, views: Tensors) -> Tensors:
        """``(n_nets P, *shape) -> (P, n_nets, *shape)``."""
        return {name: view.unflatten(0, (-1, self.plan.n_nets)) for name, view in views.items()}


def _run(net: nn.Module, params: Tensors, buffers: Tensors, obs: Tensor) -> Tensor:
    """Return the outputs of the networks of one member, ``(n_nets, B, A)``."""

    def each(*tensors: Tensors) -> Tensor:
        return functional_call(net, tensors, (obs,))

    if len(params[LOG_STD]) > 1:
        return vmap(each)(params, buffers)
    # Under a vmap of its own, gradients of a network by itself would be summed in another order.
    only = ({name: v[0] for name, v in tensors.items()} for tensors in (params, buffers))
    return each(*only)[None]
