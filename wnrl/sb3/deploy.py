"""What remains of a trained policy where it only has to act."""

from contextlib import ExitStack
from typing import Any

import torch
from gymnasium import spaces
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn
from torch.distributions import Distribution

from wnrl.errors import UsageError
from wnrl.nn import fold
from wnrl.sb3.parts import drop_graphs


class FoldedActor(nn.Module):
    """Plain torch layers that map observations to a policy's deterministic actions.

    A copy with all weights folded, and without optimizers. Its actions are those of
    ``policy.predict(obs, deterministic=True)``: clipped or scaled to the action space. It can be
    exported::

        model = PPO.load("model.zip", device="cpu")
        actor = FoldedActor(model.policy)
        obs = torch.zeros(2, *model.observation_space.shape)
        torch.onnx.export(actor, (), "actor.onnx", kwargs={"obs": obs}, dynamo=True,
                          dynamic_shapes={"obs": {0: torch.export.Dim("batch")}})

    ``VecNormalize`` is no part of a policy: observations come normalised.

    Args:
        policy: of stable-baselines3 or sb3-contrib, with a norm or without.

    Raises:
        UsageError: ``policy`` is none, or it is recurrent.
    """

    policy: Any
    low: Tensor
    high: Tensor

    def __init__(self, policy: BasePolicy) -> None:
        super().__init__()
        if isinstance(policy, RecurrentActorCriticPolicy):
            raise UsageError(
                f"{type(policy).__name__} acts with a state, which FoldedActor has no place for: "
                "wnrl.fold(policy) is the policy with plain layers"
            )
        drop_graphs(policy)
        self.policy = fold(policy)
        for part in self.policy.modules():
            part.__dict__.pop("optimizer", None)
        self.eval()
        if isinstance(policy.action_space, spaces.Box):
            self.register_buffer("low", torch.as_tensor(policy.action_space.low))
            self.register_buffer("high", torch.as_tensor(policy.action_space.high))
            self.to(policy.device)

    def forward(self, obs: Any) -> Tensor:
        """Actions ``(B, ...)`` for observations ``(B, ...)``, images with channels first.

        Args:
            obs: a tensor, or for Dict spaces a dict of tensors, as ``policy.obs_to_tensor`` makes
                them.
        """
        with ExitStack() as stack:
            # Distributions look at the values of their parameters, which an export does not have.
            stack.callback(Distribution.set_default_validate_args, Distribution._validate_args)
            Distribution.set_default_validate_args(False)
            actions: Tensor = self.policy._predict(obs, deterministic=True)
        actions = actions.reshape(-1, *self.policy.action_space.shape)
        if not isinstance(self.policy.action_space, spaces.Box):
            return actions
        if self.policy.squash_output:
            return self.low + 0.5 * (actions + 1.0) * (self.high - self.low)
        return torch.clamp(actions, self.low, self.high)
