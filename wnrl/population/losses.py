"""What members learn to make small, each as a value, for ``torch.func``, and by formula."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wnrl.population.distributions import Distribution
from wnrl.population.rollout import Batch


class PPOLoss(NamedTuple):
    """PPO's loss (Schulman et al., 2017, arXiv:1707.06347, eq. 7 and 9), of actor and critic."""

    distribution: Distribution
    """Of actions."""
    clip_range: Tensor
    """``(P,)``."""
    ent_coef: Tensor
    """``(P,)``."""
    entropy: bool
    """Whether it is not zero for all members of a cohort."""
    vf_coef: float

    def value(self, outputs: Tensor, log_std: Tensor, samples: Batch) -> Tensor:
        """Return the loss of each member, ``(P,)``, or without the first axis that of one.

        Args:
            outputs: of each network, ``(P, n_nets, B, A)``.
            log_std: ``(P, A)``.
            samples: ``(P, B, ...)``.
        """
        head, values = outputs[..., 0, :, :], outputs[..., 1, :, 0]
        log_std, clip_range = log_std[..., None, :], self.clip_range[..., None]
        advantages = samples.advantages
        log_probs = self.distribution.log_prob(head, log_std, samples.actions)
        ratio = (log_probs - samples.log_probs).exp()
        clipped = torch.clamp(ratio, 1 - clip_range, 1 + clip_range)
        policy_loss = -torch.min(advantages * ratio, advantages * clipped).mean(-1)
        value_loss = (samples.returns - values).square().mean(-1)
        entropy = self.distribution.entropy(head, log_std).mean(-1)
        return policy_loss - self.ent_coef * entropy + self.vf_coef * value_loss

    def gradient(
        self, outputs: Tensor, log_std: Tensor, samples: Batch, by_outputs: Tensor
    ) -> Tensor | None:
        """Write the gradient of the sum of the losses by the outputs, and return that by log σ.

        Args:
            outputs: of each network with the axis of samples behind, ``(P, n_nets, A, B)``.
            log_std: ``(P, A)``.
            samples: the like, actions from ``Distribution.spread``.
            by_outputs: where to write, like ``outputs``.

        Returns:
            ``(P, A)``; None where there is no deviation.
        """
        head, values, n_samples = outputs[:, 0], outputs[:, 1, 0], outputs.shape[-1]
        ent_coef, advantages = self.ent_coef[:, None], samples.advantages
        of = self.distribution.derivatives(head, log_std, samples.actions, self.entropy)
        ratio = (of.log_probs - samples.log_probs).exp_()
        # Advantage above zero: up to a ratio of 1 + clip_range; below: down to 1 - clip_range.
        sign = torch.where(advantages > 0, 1.0, -1.0).to(advantages.dtype)
        flows = ratio * sign <= sign + self.clip_range[:, None]
        by_log_prob = ratio.mul_(flows).mul_(advantages / -n_samples)
        torch.mul(of.by_head, by_log_prob[:, None], out=by_outputs[:, 0])
        if of.entropy_by_head is not None:
            by_outputs[:, 0].sub_(of.entropy_by_head * (ent_coef[..., None] / n_samples))
        by_outputs[:, 1].zero_()
        factor = 2 * self.vf_coef / n_samples
        torch.mul(values - samples.returns, factor, out=by_outputs[:, 1, 0])
        if of.by_log_std is None:
            return None
        return (of.by_log_std * by_log_prob[:, None]).sum(2) - ent_coef


class Targets(NamedTuple):
    """A minibatch that values are learned from, ``(P, B, ...)``."""

    obs: Tensor
    actions: Tensor
    values: Tensor
    """What those of the actions are to be."""


class HuberLoss(NamedTuple):
    """The mean Huber loss (Huber, 1964) of the values of actions, of which one network has all."""

    def value(self, outputs: Tensor, log_std: Tensor, samples: Any) -> Tensor:
        """Return the loss of each member on ``Targets``, as that of PPO does."""
        values = outputs[..., 0, :, :].gather(-1, samples.actions[..., None])[..., 0]
        return nn.functional.smooth_l1_loss(values, samples.values, reduction="none").mean(-1)

    def gradient(
        self, outputs: Tensor, log_std: Tensor, samples: Targets, by_outputs: Tensor
    ) -> None:
        """Write the gradient by the outputs, as that of PPO does; there is no deviation."""
        error = (outputs[:, 0] * samples.actions).sum(1) - samples.values
        by_value = error.clamp_(-1.0, 1.0).div_(error.shape[-1])
        torch.mul(samples.actions, by_value[:, None], out=by_outputs[:, 0])


Loss = PPOLoss | HuberLoss
