"""Policies with a norm for PPO, A2C, TRPO and MaskablePPO."""

from contextlib import AbstractContextManager
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

from wnrl.nn import frozen
from wnrl.sb3.common import NormBase
from wnrl.sb3.data_init import FirstRollout, Observations

HEADS = ("action_net", "value_net")

if TYPE_CHECKING:

    class _Policy(NormBase):
        """What the policies of the family have in common, which SB3 has no class for."""

        pi_features_extractor: Any
        vf_features_extractor: Any
        mlp_extractor: Any

        def evaluate_actions(self, obs: Any, actions: Any, *args: Any, **kwargs: Any) -> Any: ...

else:
    _Policy = NormBase


class NormMixin(_Policy):
    """``NormBase`` for policies in which actor and critic have one optimizer.

    Rollouts compute each weight once: after SB3 has switched to evaluation for one, the first
    forward without grad opens ``frozen(self)``, which lasts until the next switch, that is until
    the update or a ``predict``. A callback that writes parameters through ``.data`` in the middle
    of a rollout needs ``wnrl.invalidate(policy)`` afterwards; nothing else does.

    TRPO steps the actor without its optimizer: under ``projected``, rows return to the sphere with
    the first step of the critic, after the line search has checked the trust region.
    """

    policy_init = FirstRollout

    def _after_init(self) -> None:
        self._collecting = False
        self._rollout: AbstractContextManager[None] | None = None
        self._normed(self, HEADS)
        self._renew_optimizer()

    def forward(self, obs: Any, *args: Any, **kwargs: Any) -> Any:
        """As SB3's, whose rollouts call it."""
        if isinstance(self._init, FirstRollout):
            self._init.see(obs)
        if self._collecting and self._rollout is None and not torch.is_grad_enabled():
            self._rollout = frozen(self)
            self._rollout.__enter__()
        return super().forward(obs, *args, **kwargs)

    def set_training_mode(self, mode: bool) -> None:
        """As SB3's, which calls it at the start of each rollout and of each update."""
        self._collecting = not mode
        if self._rollout is not None:
            self._rollout.__exit__(None, None, None)
            self._rollout = None
        super().set_training_mode(mode)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """As SB3's, which switches to evaluation too, but begins no rollout."""
        collecting = self._collecting
        try:
            return super().predict(*args, **kwargs)
        finally:
            self._collecting = collecting

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

    def __getstate__(self) -> dict[str, Any]:
        # Copies are in no rollout.
        return {**super().__getstate__(), "_rollout": None, "_collecting": False}


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
