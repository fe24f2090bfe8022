"""Running statistics of observations and returns, by which they are scaled, as SB3 does it.

What SB3's ``VecNormalize`` keeps for one run is a member's row of a float64 matrix here.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wnrl.tensor_envs.core import Step, beside

KINDS = ("none", "obs", "reward", "both")
CLIP, EPSILON, FIRST_COUNT = 10.0, 1e-8, 1e-4
"""VecNormalize's defaults; statistics begin as those of so few numbers with variance 1."""
SUMS = "sums"
Statistics = dict[str, Tensor]
"""By the names of ``wnrl.rl.statistics``, in float64 with a row a member; ``sums`` are the
discounted rewards of the present episodes, ``(P, N)``."""


@dataclass(frozen=True)
class Scaling:
    """What is scaled."""

    kind: str
    """One of ``KINDS``."""

    def init(self, obs: Tensor) -> Statistics:
        """Return the statistics that the first observations ``(P, N, n_inputs)`` give."""
        if self.kind == "none":
            return {}
        names = ("return",) if self.kind == "reward" else ("obs", "return")
        zeros = obs.new_zeros(obs.shape[:2], dtype=torch.float64)
        statistics = {SUMS: zeros}
        for name in names:
            mean = zeros.new_zeros(len(obs), *(obs.shape[2:] if name == "obs" else ()))
            count = zeros.new_full((len(obs),), FIRST_COUNT)
            numbers = {"mean": mean, "var": torch.ones_like(mean), "count": count}
            statistics |= {f"{name}/{moment}": number for moment, number in numbers.items()}
        if "obs" in names:
            _see_(statistics, "obs", obs.double())
        return statistics

    def obs(self, statistics: Statistics, obs: Tensor) -> Tensor:
        """Return observations ``(P, N, n_inputs)`` scaled, or as they are."""
        if "obs/mean" not in statistics:
            return obs
        spread = (statistics["obs/var"] + EPSILON).sqrt_()
        scaled = (obs - statistics["obs/mean"][:, None]) / spread[:, None]
        return scaled.clamp_(-CLIP, CLIP).to(obs.dtype)

    def step_(
        self, statistics: Statistics, obs: Tensor, step: Step, gamma: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Let the statistics see a step; return its rewards and final observations as scaled.

        Args:
            statistics: changed in place.
            obs: behind the step and its resets, ``(P, N, n_inputs)``.
            step: of ``(P, N)`` environments.
            gamma: ``(P,)``.
        """
        if self.kind == "none":
            return step.rewards, step.final_obs
        if "obs/mean" in statistics:
            _see_(statistics, "obs", obs.double())
        sums = statistics[SUMS]
        sums.mul_(gamma[:, None]).add_(step.rewards)
        _see_(statistics, "return", sums)
        rewards = step.rewards
        if self.kind != "obs":
            spread = (statistics["return/var"] + EPSILON).sqrt_()
            rewards = (rewards / spread[:, None]).clamp_(-CLIP, CLIP).to(rewards.dtype)
        sums.masked_fill_(step.terminated | step.truncated, 0.0)
        return rewards, self.obs(statistics, step.final_obs)

    def numbers(self, statistics: Statistics, index: int, gamma: float) -> dict[str, Any] | None:
        """Return those of a member as ``wnrl.rl.statistics`` has them; None without any.

        Args:
            statistics: of several.
            index: of the member.
            gamma: its discount.
        """
        if self.kind == "none":
            return None
        scaled = {"norm_obs": self.kind != "reward", "norm_reward": self.kind != "obs"}
        limits = {"clip_obs": CLIP, "clip_reward": CLIP, "gamma": gamma, "epsilon": EPSILON}
        moments = {name: value for name, value in statistics.items() if name != SUMS}
        numbers = {name: value[index].cpu().numpy().copy() for name, value in moments.items()}
        return scaled | limits | numbers


def _see_(statistics: Statistics, name: str, values: Tensor) -> None:
    """Let mean, variance and count see values ``(P, N, ...)`` (Chan et al., 1979)."""
    mean, var, count = (statistics[f"{name}/{moment}"] for moment in ("mean", "var", "count"))
    before = beside(count, mean)
    n = values.shape[1]
    after = before + n
    average = values.mean(1)
    squares = (values - average[:, None]).square().mean(1)
    change = average - mean
    squares.mul_(n).add_(var * before).add_(change.square() * (before * n / after))
    torch.div(squares, after, out=var)
    mean.add_(change * (n / after))
    count.add_(n)
