"""Policies with a norm for PPO, A2C, TRPO and MaskablePPO."""

from typing import TYPE_CHECKING, Any

import torch
from sb3_contrib.common.maskable.policies import (
    MaskableActorCriticCnnPolicy,
    MaskableActorCriticPolicy,
    MaskableMultiInputActorCriticPolicy,
)
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    MultiInputActorCriticPolicy,
)
from torch import Tensor

from wnrl.sb3.data_init import FirstRollout, Observations
from wnrl.sb3.rollout import RolloutMixin

HEADS = ("action_net", "value_net")

if TYPE_CHECKING:

    class _Policy(RolloutMixin):
        """What the policies of the family have in common, which SB3 has no class for."""

        pi_features_extractor: Any
        vf_features_extractor: Any
        mlp_extractor: Any

        def evaluate_actions(self, obs: Any, actions: Any, *args: Any, **kwargs: Any) -> Any: ...

else:
    _Policy = RolloutMixin


class NormMixin(_Policy):
    """``NormBase`` for policies in which actor and critic have one optimizer.

    TRPO steps the actor without its optimizer: under ``projected``, rows return to the sphere with
    the first step of the critic, after the line search has checked the trust region.
    """

    policy_init = FirstRollout

    def _after_init(self) -> None:
        self._normed(self, HEADS)
        self._renew_optimizer()

    def forward(self, obs: Any, *args: Any, **kwargs: Any) -> Any:
        """As SB3's, whose rollouts call it."""
        if isinstance(self._init, FirstRollout):
            self._init.see(obs)
        if not torch.is_grad_enabled():
            self._keep()
        return super().forward(obs, *args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """As SB3's, which rollouts do not call."""
        self._forget()
        with self._as_asked():
            return super().predict(*args, **kwargs)

    def evaluate_actions(self, obs: Any, actions: Any, *args: Any, **kwargs: Any) -> Any:
        """As SB3's; ``wnrl.sb3.data_init`` says what differs in the first update after it."""
        evaluate = super().evaluate_actions
        shift: Tensor | float = 0.0
        if isinstance(self._init, FirstRollout):
            shift = self._init.shift(evaluate, obs, actions, *args, **kwargs)
        values, log_prob, entropy = evaluate(obs, actions, *args, **kwargs)
        return values, log_prob + shift, entropy

    def _run_hidden(self, obs: Observations) -> None:
        features = self.pi_features_extractor(obs)
        self.mlp_extractor.forward_actor(features)
        if self.vf_features_extractor is not self.pi_features_extractor:
            features = self.vf_features_extractor(obs)
        self.mlp_extractor.forward_critic(features)


class WNMlpPolicy(NormMixin, ActorCriticPolicy):
    """SB3's ``MlpPolicy`` for PPO, A2C and TRPO, with a norm."""


class WNCnnPolicy(NormMixin, ActorCriticCnnPolicy):
    """SB3's ``CnnPolicy`` for PPO, A2C and TRPO, with a norm."""


class WNMultiInputPolicy(NormMixin, MultiInputActorCriticPolicy):
    """SB3's ``MultiInputPolicy`` for PPO, A2C and TRPO, with a norm."""


class WNMaskableMlpPolicy(NormMixin, MaskableActorCriticPolicy):
    """sb3-contrib's ``MlpPolicy`` for MaskablePPO, with a norm."""


class WNMaskableCnnPolicy(NormMixin, MaskableActorCriticCnnPolicy):
    """sb3-contrib's ``CnnPolicy`` for MaskablePPO, with a norm."""


class WNMaskableMultiInputPolicy(NormMixin, MaskableMultiInputActorCriticPolicy):
    """sb3-contrib's ``MultiInputPolicy`` for MaskablePPO, with a norm."""
