"""The networks of a cohort by ``torch.func``: every norm and every activation, without a formula.

The layers are wnrl's own modules, whose parameters and buffers are views of the members' rows. It
is the oracle of ``wnrl.population.hot``, which computes the same faster for some norms.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from wnrl.population.distributions import Distribution
from wnrl.population.rollout import Act, Batch
from wnrl.population.rows import LOG_STD, Layout, Tensors
from wnrl.population.states import clone, copy_


class Goal(NamedTuple):
    """What the loss is made of, beside the samples."""

    clip_range: Tensor
    """``(P,)``."""
    ent_coef: Tensor
    """``(P,)``."""
    entropy: bool
    """Whether it is not zero for all members."""
    vf_coef: float
    normalize_advantage: bool


OF_MEMBERS = Goal(0, 0, None, None, None)  # type: ignore[arg-type]
"""The axis of members in a goal, as ``vmap`` takes it."""


def standardised(advantages: Tensor) -> Tensor:
    """Return advantages with mean 0 and deviation 1 over the samples, the last axis."""
    mean = advantages.mean(-1, keepdim=True)
    return (advantages - mean) / (advantages.std(-1, keepdim=True) + 1e-8)


Outputs = Callable[[Tensor], Tensor]
"""From observations ``(P, B, *shape)`` to the outputs of each network, ``(P, n_nets, B, A)``."""


class Acting(ABC):
    """The networks of a cohort as they act, by formula or not."""

    @abstractmethod
    def outputs(self, params: Tensor, buffers: Tensor, training: bool = False) -> Outputs:
        """Return the networks in evaluation mode, or in training mode: statistics move then."""

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


class Modules(Acting):
    """Networks of a cohort as wnrl's own modules, which members' rows are put into.

    Args:
        plan: the layout of the members.
        distribution: of actions.
    """

    def __init__(self, plan: Layout, distribution: Distribution) -> None:
        self.plan, self.distribution = plan, distribution
        self.learning: nn.Module = copy.deepcopy(plan.net.networks()[0]).train()
        self.acting: nn.Module = copy.deepcopy(plan.net.networks()[0]).eval()

    def outputs(self, params: Tensor, buffers: Tensor, training: bool = False) -> Outputs:
        """Return the networks, as ``Acting`` has them."""
        net = self.learning if training else self.acting
        weights = self.by_member(self.plan.views(params))
        running = self.by_member(self.plan.buffer_views(buffers))
        return lambda obs: vmap(_run, in_dims=(None, 0, 0, 0))(net, weights, running, obs)

    def ppo_loss(
        self, head: Tensor, values: Tensor, log_std: Tensor, batch: Batch, goal: Goal
    ) -> Tensor:
        """Return the loss of one member (Schulman et al., 2017, arXiv:1707.06347, eq. 7 and 9).

        Args:
            head: of the actor, ``(B, A)``.
            values: ``(B,)``.
            log_std: ``(A,)``.
            batch: samples ``(B, ...)``.
            goal: of this member.
        """
        advantages = batch.advantages
        if goal.normalize_advantage:
            advantages = standardised(advantages)
        log_probs = self.distribution.log_prob(head, log_std, batch.actions)
        ratio = (log_probs - batch.log_probs).exp()
        clipped = torch.clamp(ratio, 1 - goal.clip_range, 1 + goal.clip_range)
        policy_loss = -torch.min(advantages * ratio, advantages * clipped).mean()
        value_loss = (batch.returns - values).square().mean()
        entropy = self.distribution.entropy(head, log_std).mean()
        return policy_loss - goal.ent_coef * entropy + goal.vf_coef * value_loss

    def by_member(self, views: Tensors) -> Tensors:
        """``(n_nets P, *shape) -> (P, n_nets, *shape)``."""
        return {name: view.unflatten(0, (-1, self.plan.n_nets)) for name, view in views.items()}

    def learner(
        self, params: Tensor, buffers: Tensor, grads: Tensor, goal: Goal | None = None
    ) -> "Learner":
        """Return what computes gradients of these members.

        Args:
            params: ``(P, D)``.
            buffers: running statistics, ``(P, D')``, which will move.
            grads: where the gradients go, ``(P, D)``.
            goal: what the loss is made of, beside the samples.
        """
        plan = self.plan
        views = plan.views(params), plan.buffer_views(buffers), plan.views(grads)
        return Learner(self, goal, *views)


@dataclass(frozen=True)
class Learner:
    """Gradients of some members by automatic differentiation, from views ``(2P, *shape)``."""

    networks: Any
    goal: Goal | None
    params: Tensors
    buffers: Tensors
    grads: Tensors

    def prepare(self, minibatch: Any) -> Any:
        """Return a minibatch, as it is."""
        return minibatch

    def gradient_(self, samples: Any) -> None:
        """Write the gradients of the loss, and let running statistics move."""
        # Under vmap, torch's batch norm writes statistics that are not contiguous into a copy.
        moved = clone(self.buffers)
        copy_(self.grads, self.networks.gradients(self.params, moved, samples, self.goal))
        copy_(self.buffers, moved)


class VmappedActorCritic(Modules):
    """``vmap(grad(loss))`` over modules of ``wnrl.networks``."""

    def gradients(self, params: Tensors, buffers: Tensors, samples: Batch, goal: Goal) -> Tensors:
        """Return gradients by name; running statistics move in ``buffers``."""
        gradient = vmap(grad(self._loss), in_dims=(0, 0, 0, OF_MEMBERS))
        computed = gradient(self.by_member(params), self.by_member(buffers), samples, goal)
        return {name: value.flatten(0, 1) for name, value in computed.items()}

    def _loss(self, params: Tensors, buffers: Tensors, batch: Batch, goal: Goal) -> Tensor:
        """Return the loss of one member."""
        outputs = _run(self.learning, params, buffers, batch.obs)
        head, values, log_std = outputs[0], outputs[1, :, 0], params[LOG_STD][0]
        return self.ppo_loss(head, values, log_std, batch, goal)


def _run(net: nn.Module, params: Tensors, buffers: Tensors, obs: Tensor) -> Tensor:
    """Return the outputs of the networks of one member, ``(n_nets, B, A)``."""
    return vmap(lambda *tensors: functional_call(net, tensors, (obs,)))(params, buffers)
