"""Distributions of actions, from the outputs of an actor's head and from uniform numbers.

``*B`` is any batch shape, usually ``(members, envs)``; ``log_std`` broadcasts to the head, and is
of no interest to discrete actions.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor

_LOG_2PI = math.log(2 * math.pi)


class Derivatives(NamedTuple):
    """Of log-probabilities and entropies; the axis of the head comes before that of samples."""

    log_probs: Tensor
    """``(P, B)``."""
    by_head: Tensor
    """Of the log-probabilities, ``(P, A, B)``."""
    by_log_std: Tensor | None
    """Of the log-probabilities, ``(P, A, B)``; None for discrete actions."""
    entropy_by_head: Tensor | None
    """Of the entropies, ``(P, A, B)``; None where they do not depend on the head."""


@dataclass(frozen=True)
class Categorical:
    """One of n actions, ``(*B)`` int64; the head has their logits, ``(*B, n)``."""

    draws: ClassVar[int] = 1
    """Uniform numbers that one action takes."""

    def sample(self, head: Tensor, log_std: Tensor, u: Tensor) -> Tensor:
        """Return the first action at which the summed probabilities exceed ``u``.

        Args:
            head: ``(*B, n)``.
            log_std: of nothing.
            u: uniform in the open (0, 1), ``(*B, draws)``.
        """
        below = head.softmax(-1).cumsum(-1)[..., :-1]
        return (u >= below).sum(-1)

    def mode(self, head: Tensor) -> Tensor:
        """Return the likeliest actions."""
        return head.argmax(-1)

    def log_prob(self, head: Tensor, log_std: Tensor, actions: Tensor) -> Tensor:
        """Return the log-probabilities of actions, ``(*B)``."""
        return head.log_softmax(-1).gather(-1, actions[..., None])[..., 0]

    def entropy(self, head: Tensor, log_std: Tensor) -> Tensor:
        """Return the entropies, ``(*B)``."""
        log_probs = head.log_softmax(-1)
        return -(log_probs.exp() * log_probs).sum(-1)

    def to_env(self, actions: Tensor) -> Tensor:
        """Return the actions as an environment takes them, as they are."""
        return actions

    def spread(self, actions: Tensor, n_outputs: int, dtype: torch.dtype) -> Tensor:
        """Return ones where an action was taken, ``(P, A, B)``, as ``derivatives`` takes them.

        Args:
            actions: ``(P, B, ...)``.
            n_outputs: A.
            dtype: of the ones.
        """
        choices = torch.arange(n_outputs, device=actions.device)
        return (actions[:, None] == choices[:, None]).to(dtype)

    def derivatives(
        self, head: Tensor, log_std: Tensor, spread: Tensor, entropy: bool
    ) -> Derivatives:
        """Return log-probabilities and, by a logit, 1ₐ − p, and of the entropy −p (log p + H).

        Args:
            head: ``(P, A, B)``.
            log_std: ``(P, A)``.
            spread: from ``spread``.
            entropy: whether that of the entropies is wanted.
        """
        logs = head.log_softmax(1)
        probs = logs.exp()
        log_probs = (logs * spread).sum(1)
        of_entropy = None
        if entropy:
            entropies = -(probs * logs).sum(1, keepdim=True)
            of_entropy = -probs * (logs + entropies)
        return Derivatives(log_probs, spread - probs, None, of_entropy)


@dataclass(frozen=True)
class Gaussian:
    """Independent normal numbers, ``(*B, A)``; the head has their means.

    Args:
        low: bounds that an environment's actions are clipped to, ``(A,)``.
        high: the upper ones.
    """

    low: Tensor
    high: Tensor

    @property
    def draws(self) -> int:
        """Uniform numbers that one action takes."""
        return len(self.low)

    def sample(self, head: Tensor, log_std: Tensor, u: Tensor) -> Tensor:
        """Return the numbers whose distribution function is ``u``."""
        return head + log_std.exp() * torch.special.ndtri(u)

    def mode(self, head: Tensor) -> Tensor:
        """Return the means."""
        return head

    def log_prob(self, head: Tensor, log_std: Tensor, actions: Tensor) -> Tensor:
        """Return the log-densities of actions, ``(*B)``."""
        z = (actions - head) * (-log_std).exp()
        return -(z.square() * 0.5 + log_std + 0.5 * _LOG_2PI).sum(-1)

    def entropy(self, head: Tensor, log_std: Tensor) -> Tensor:
        """Return the entropies, ``(*B)``."""
        return (log_std + 0.5 * (1 + _LOG_2PI)).expand(head.shape).sum(-1)

    def to_env(self, actions: Tensor) -> Tensor:
        """Return the actions within the bounds."""
        return actions.clamp(self.low, self.high)

    def spread(self, actions: Tensor, n_outputs: int, dtype: torch.dtype) -> Tensor:
        """Return the actions with the axis of samples behind, ``(P, A, B)``."""
        return actions.transpose(1, 2).contiguous()

    def derivatives(
        self, head: Tensor, log_std: Tensor, spread: Tensor, entropy: bool
    ) -> Derivatives:
        """Return log-probabilities and, with z = (a − μ)/σ, z/σ by μ and z² − 1 by log σ."""
        inverse = (-log_std).exp()[..., None]
        z = (spread - head) * inverse
        squares = z.square()
        log_probs = -(squares * 0.5 + log_std[..., None] + 0.5 * _LOG_2PI).sum(1)
        return Derivatives(log_probs, z * inverse, squares - 1, None)


Distribution = Categorical | Gaussian


def distribution(space: spaces.Space[Any], like: Tensor) -> Distribution:
    """Return the distribution for actions of a space, with the dtype and device of ``like``."""
    if isinstance(space, spaces.Box):
        return Gaussian(*(torch.as_tensor(bound).to(like) for bound in (space.low, space.high)))
    return Categorical()
