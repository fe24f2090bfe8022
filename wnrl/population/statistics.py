"""Running statistics of observations and returns, by which they are scaled, as SB3 does it.

What SB3's ``VecNormalize`` keeps for one run is a member's row of a float64 matrix here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from wnrl.population.rows import Rows
from wnrl.tensor_envs.core import Step, beside

KINDS = ("none", "obs", "reward", "both")
CLIP, EPSILON, FIRST_COUNT = 10.0, 1e-8, 1e-4
"""VecNormalize's defaults; statistics begin as those of so few numbers with variance 1."""
SUMS = "sums"


@dataclass(frozen=True)
class Scaling:
    """What is scaled, and where its statistics stand in a row.

    The names of the slots are those of ``wnrl.rl.statistics``; ``sums`` are the discounted rewards
    of the present episodes, one an environment.
    """

    kind: str
    """One of ``KINDS``."""
    rows: Rows

    @classmethod
    def of(cls, kind: str, n_inputs: int, n_envs: int) -> Self:
        """Return the scaling of observations ``(n_inputs,)`` and rewards in ``n_envs``."""
        scalar, vector = torch.empty(()), torch.empty(n_inputs)
        slots: dict[str, Tensor] = {}
        if kind in ("obs", "both"):
            slots |= {"obs/mean": vector, "obs/var": vector, "obs/count": scalar}
        if kind != "none":
            slots |= {"return/mean": scalar, "return/var": scalar, "return/count": scalar}
            slots[SUMS] = torch.empty(n_envs)
        return cls(kind, Rows.of(slots))

    def init(self, obs: Tensor) -> Tensor:
        """Return the statistics that the first observations ``(P, N, n_inputs)`` give, ``(P, D)``.

        The width D is zero where nothing is scaled.
        """
        matrix = torch.zeros(len(obs), self.rows.width, dtype=torch.float64, device=obs.device)
        for name, view in self.rows.views(matrix).items():
            view.fill_({"var": 1.0, "count": FIRST_COUNT}.get(name.rpartition("/")[2], 0.0))
        self._see_obs_(matrix, obs)
        return matrix

    def obs(self, statistics: Tensor, obs: Tensor) -> Tensor:
        """Return observations ``(P, N, n_inputs)`` scaled, or as they are."""
        if self.kind not in ("obs", "both"):
            return obs
        views = self.rows.views(statistics)
        spread = (views["obs/var"] + EPSILON).sqrt_()
        scaled = (obs - views["obs/mean"][:, None]) / spread[:, None]
        return scaled.clamp_(-CLIP, CLIP).to(obs.dtype)

    def step_(
        self, statistics: Tensor, obs: Tensor, step: Step, gamma: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Let the statistics see a step; return its rewards and final observations as scaled.

        Args:
            statistics: ``(P, D)``, changed in place.
            obs: behind the step and its resets, ``(P, N, n_inputs)``.
            step: of ``(P, N)`` environments.
            gamma: ``(P,)``.
        """
        if self.kind == "none":
            return step.rewards, step.final_obs
        self._see_obs_(statistics, obs)
        views = self.rows.views(statistics)
        sums = views[SUMS]
        sums.mul_(gamma[:, None]).add_(step.rewards)
        _see_(views, "return", sums)
        rewards = step.rewards
        if self.kind != "obs":
            spread = (views["return/var"] + EPSILON).sqrt_()
            rewards = (rewards / spread[:, None]).clamp_(-CLIP, CLIP).to(rewards.dtype)
        sums.masked_fill_(step.terminated | step.truncated, 0.0)
        return rewards, self.obs(statistics, step.final_obs)

    def numbers(self, row: Tensor, gamma: float) -> dict[str, Any] | None:
        """Return a member's row ``(D,)`` as ``wnrl.rl.statistics`` has it; None without any.

        Args:
            row: of a member.
            gamma: its discount.
        """
        if self.kind == "none":
            return None
        options = {
            "norm_obs": self.kind != "reward",
            "norm_reward": self.kind != "obs",
            "clip_obs": CLIP,
            "clip_reward": CLIP,
            "gamma": gamma,
            "epsilon": EPSILON,
        }
        views = self.rows.views(row[None].cpu())
        return options | {name: v[0].numpy().copy() for name, v in views.items() if name != SUMS}

    def _see_obs_(self, statistics: Tensor, obs: Tensor) -> None:
        if self.kind in ("obs", "both"):
            _see_(self.rows.views(statistics), "obs", obs.double())


def _see_(views: Mapping[str, Tensor], name: str, values: Tensor) -> None:
    """Let mean, variance and count see values ``(P, N, ...)`` (Chan et al., 1979)."""
    mean, var = views[f"{name}/mean"], views[f"{name}/var"]
    count = views[f"{name}/count"]
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
