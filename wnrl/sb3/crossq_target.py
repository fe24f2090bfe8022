"""A target network for CrossQ, whose loop has none.

sb3-contrib's loop runs its critic on (s, a) and (s', a') as one batch and bootstraps from the
second half of what comes out. With a target, these values are the target's: a forward hook puts
them there, and the loop stays as it is. CrossQ with projected weights has one (Palenicek et al.
2025, arXiv:2502.07523, section 4): without it, in their ablation (section 5.4), returns on the
DeepMind Control Suite fall nearly as far as without the projection.

*Statistics.* As in the paper, the target runs on the joint batch too, in training mode: its batch
norms use the statistics of (s, a) and (s', a') together, so that the noise of a batch is in the
values of critic and target alike. The running statistics, of which the paper says nothing, are
those of the target's own activations, tracked in that forward, and neither averages nor copies of
the critic's. Batch norm does not use them in training, but batch renormalisation does: after its
warm-up it normalises by them, within limits, and the critic's belong to other weights. With
``tau=1`` such a target is a copy of the critic in all, and what a batch teaches, bit for bit, what
CrossQ makes of it.

*Weights.* After each step of the critic's optimizer, and after the projection that may follow it,
the target moves by ``tau``. Rows of unit length average to shorter ones. They are not projected
again: before a nonlinearity, averaged weights and biases give the average of what the critics gave,
and to project the rows alone would change how they go with the biases. A batch norm behind it takes
the length out again.
"""

from typing import Any

import torch
from stable_baselines3.common.utils import polyak_update
from torch import Tensor, nn
from torch.optim import Optimizer

from wnrl.errors import UsageError
from wnrl.sb3.batch_statistics import (
    CriticForward,
    Inputs,
    Named,
    counterparts,
    use_batch_statistics,
)


def check_tau(tau: float | None) -> float | None:
    """Returns ``tau``, how far a target moves in a step, if it moves one or is None.

    Raises:
        UsageError: it is not from above 0 to 1.
    """
    number = isinstance(tau, int | float) and not isinstance(tau, bool)
    if tau is not None and not (number and 0 < tau <= 1):
        raise UsageError(f"tau must be a number above 0, up to 1, or None; got {tau!r}")
    return tau


class JointForward(CriticForward):
    """``CriticForward`` for CrossQ with a target, which gives the values of (s', a').

    Args:
        critic: the critic; it learns from batches ``(2 B, …)`` of (s, a), then (s', a').
        norms: its batch norms, less those of a features extractor that the actor trains.
        target: its target.

    Attributes:
        target_norms: the batch norms of the target that track statistics of their own, those in the
            places of ``norms``.
    """

    def __init__(self, critic: nn.Module, norms: list[nn.Module], target: nn.Module) -> None:
        super().__init__(critic, norms)
        self.target, self.target_norms = target, counterparts(critic, norms, target)

    def after(self, critic: nn.Module, args: Inputs, kwargs: Named, output: Any) -> Any:
        """Puts the target's values of (s', a') behind the critic's of (s, a)."""
        super().after(critic, args, kwargs, output)
        if output is None or not self.learns(args, kwargs):
            return output
        obs, actions = self.pair(args, kwargs)
        n = len(actions) // 2
        ahead = self._values(obs, actions, n)
        return tuple(torch.cat([q[:n], q_next]) for q, q_next in zip(output, ahead, strict=True))

    @torch.no_grad()
    def _values(self, obs: Any, actions: Tensor, n: int) -> tuple[Tensor, ...]:
        """The target's values of what comes behind the first ``n``, each ``(B, 1)``."""
        if not self.target_norms:  # examples are independent
            return self.target(obs[n:], actions[n:])
        use_batch_statistics(self.target_norms, True)
        try:
            return tuple(q[n:] for q in self.target(obs, actions))
        finally:
            use_batch_statistics(self.target_norms, False)


class MoveTarget:
    """Hook behind an optimizer's steps: moves a target as the loops of stable-baselines3 do.

    Args:
        critic: what the optimizer trains.
        target: moves by ``tau`` in its parameters. Buffers named ``running_*`` are copied.
        tau: how far.
        tracked: modules of ``target`` that have running statistics of their own.
    """

    def __init__(
        self, critic: nn.Module, target: nn.Module, tau: float, tracked: list[nn.Module]
    ) -> None:
        self.critic, self.target, self.tau = critic, target, tau
        own = {id(module) for module in tracked}
        self.copied = [
            (module, part, name)
            for place, module in target.named_modules()
            if id(module) not in own
            for part in [critic.get_submodule(place)]
            for name, buffer in module.named_buffers(recurse=False)
            if name.startswith("running_")
        ]

    @torch.no_grad()
    def __call__(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Called by torch after ``optimizer.step``."""
        polyak_update(self.critic.parameters(), self.target.parameters(), self.tau)
        for module, part, name in self.copied:
            module.get_buffer(name).copy_(part.get_buffer(name))
