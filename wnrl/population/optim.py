"""torch's optimizers for rows ``(P, D)``, each with a learning rate and a clipping of its own.

The rules are those of ``torch.optim``; what differs from row to row is a tensor ``(P,)``. All
functions change their arguments in place and read no value back, so that they can be captured in
a CUDA graph; there, the number of the step ``t`` is a tensor. ``optimizer_of`` returns the one that
SB3's policy has; projections follow a step.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wnrl.errors import UsageError
from wnrl.nn.projection import is_projected, project_, projected_weights, to_length_one_
from wnrl.norms import NORMS
from wnrl.optim import layer_weights
from wnrl.population.random import Number
from wnrl.population.rows import LOG_STD, Layout

State = dict[str, Tensor]
"""What an optimizer keeps, ``(P, D)`` each: a chunk of members is a slice of all of them."""


BETAS, ALPHA = (0.9, 0.999), 0.99
"""torch's defaults."""
TINY = 1e-37
"""The root of less is nothing beside eps; roots of zeros, which dead units have, are slow."""


@contextmanager
def without_denormals() -> Iterator[None]:
    """Take numbers too small for all their digits as zero, on a CPU, which is slow with them.

    The averages of units that are off at every sample become such numbers, nothing beside eps.
    What the thread did with them before, it does again behind.
    """
    before = sys.float_info.min / 2 == 0  # torch can be told, but not asked
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def clip_(grads: Tensor, max_norm: float) -> None:
    """Scale each row of ``(P, D)`` down to a length, as ``clip_grad_norm_`` does with a network."""
    lengths = torch.linalg.vector_norm(grads, dim=1)
    grads.mul_((max_norm / (lengths + 1e-6)).clamp_(max=1.0)[:, None])


@dataclass(frozen=True)
class Adam:
    """``torch.optim.Adam``, and with ``weight_decay`` ``torch.optim.AdamW``."""

    eps: float = 1e-8
    weight_decay: float = 0.0
    """Decoupled."""
    decayed: Tensor | float = 1.0
    """One for the columns that decay, else zero, ``(D,)`` or of all."""

    def init(self, params: Tensor) -> State:
        """Return the state before the first step: of the gradients, and of their sizes."""
        return {"mean": torch.zeros_like(params), "size": torch.zeros_like(params)}

    def step_(self, params: Tensor, grads: Tensor, state: State, t: Number, rate: Tensor) -> None:
        """Make a step.

        Args:
            params: ``(P, D)``.
            grads: ``(P, D)``; overwritten.
            state: from ``init``.
            t: the number of the step, from 1 on.
            rate: of learning, ``(P,)``.
        """
        mean, square, rate = state["mean"], state["size"], rate[:, None]
        first, second = BETAS
        if self.weight_decay:
            params.mul_(1 - rate * self.weight_decay * self.decayed)
        mean.lerp_(grads, 1 - first)
        square.mul_(second).addcmul_(grads, grads, value=1 - second)
        # mean / seen₁ · rate / (√(square / seen₂) + eps), in few passes and without new memory.
        of_square = _seen(second, t) ** 0.5
        divisor = torch.clamp(square, min=TINY, out=grads).sqrt_().add_(self.eps * of_square)
        divisor.mul_((rate * (of_square / _seen(first, t))).reciprocal_())
        params.addcdiv_(mean, divisor, value=-1)


@dataclass(frozen=True)
class Adamax(Adam):
    """``torch.optim.Adamax``, without a decay."""

    def step_(self, params: Tensor, grads: Tensor, state: State, t: Number, rate: Tensor) -> None:
        """Make a step."""
        mean, largest = state["mean"], state["size"]
        first, second = BETAS
        mean.lerp_(grads, 1 - first)
        torch.maximum(largest.mul_(second), grads.abs_().add_(self.eps), out=largest)
        inverse = (rate[:, None] / _seen(first, t)).reciprocal_()
        divisor = torch.mul(largest, inverse, out=grads)
        params.addcdiv_(mean, divisor, value=-1)


@dataclass(frozen=True)
class RMSprop(Adam):
    """``torch.optim.RMSprop``, without momentum."""

    def step_(self, params: Tensor, grads: Tensor, state: State, t: Number, rate: Tensor) -> None:
        """Make a step."""
        square = state["size"]
        square.mul_(ALPHA).addcmul_(grads, grads, value=1 - ALPHA)
        divisor = torch.clamp(square, min=TINY).sqrt_().add_(self.eps)
        params.addcdiv_(grads.mul_(rate[:, None]), divisor, value=-1)


OTHERS = {"adamax": Adamax, "rmsprop": RMSprop}
"""What is not Adam, by the words that configurations have."""


def _seen(beta: float, t: Number) -> Any:
    """Return 1 − βᵗ, the weight that a running mean has given to what it has seen."""
    # In float32 the difference of 1 and 0.999 has four digits.
    return 1 - beta ** (t.double() if isinstance(t, Tensor) else t)


def optimizer_of(config: Any, plan: Layout, like: Tensor) -> Adam:
    """Return the optimizer of members with the options that SB3's policy, or a VAE, gives it."""
    if config.optimizer in OTHERS:
        return OTHERS[config.optimizer]()
    if config.optimizer == "adam":
        return Adam(eps=getattr(config, "adam_eps", Adam.eps))
    actor = plan.net.networks()[0]
    decayed: Tensor | float = 1.0
    if any(name.endswith("weight_g") for name in plan.params) or projected_names(config.norm, plan):
        plain = {
            id(weight)
            for layer in actor.modules()
            if not is_projected(layer)
            for weight in layer_weights(layer)
        }
        decayed = columns = torch.zeros_like(like[:1])
        for name, view in plan.views(columns).items():
            view.fill_(name != LOG_STD and id(actor.get_parameter(name)) in plain)
    return Adam(weight_decay=config.weight_decay, decayed=decayed)


def check_after_step(norm: str) -> None:
    """Raise UsageError if something other than projection follows a step of the optimizer."""
    if NORMS[norm].after_step not in (None, project_):
        raise UsageError(f"norm {norm!r} has a step of its own, unknown to a population")


def projected_names(norm: str, plan: Layout) -> list[str]:
    """Return the names of the weights whose rows are put back on the sphere after each step."""
    check_after_step(norm)
    chosen = {id(weight) for weight, _ in projected_weights(plan.net)}
    return [name for name, p in plan.net.networks()[0].named_parameters() if id(p) in chosen]


def projection(norm: str, plan: Layout) -> Callable[[Tensor], None]:
    """Return what follows each step: the rows of these weights are put back on the sphere.

    It takes parameters ``(P, D)``.
    """
    names = projected_names(norm, plan)

    def project_(params: Tensor) -> None:
        views = plan.views(params) if names else {}
        for name in names:
            to_length_one_(views[name].flatten(2), [-1])

    return project_
