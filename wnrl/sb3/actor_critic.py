"""Policies with a norm for PPO, A2C and TRPO."""

from typing import TYPE_CHECKING

from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    MultiInputActorCriticPolicy,
)

from wnrl.sb3.common import NormBase

HEADS = ("action_net", "value_net")

if TYPE_CHECKING:
    _Policy = ActorCriticPolicy
else:
    _Policy = object


class NormMixin(NormBase, _Policy):
    """``NormBase`` for policies in which actor and critic have one optimizer."""

    def _after_init(self) -> None:
        self._normed(self, HEADS)
        self._renew_optimizer()


class WNMlpPolicy(NormMixin, ActorCriticPolicy):
    """SB3's ``MlpPolicy`` for PPO, A2C and TRPO, with a norm."""


class WNCnnPolicy(NormMixin, ActorCriticCnnPolicy):
    """SB3's ``CnnPolicy`` for PPO, A2C and TRPO, with a norm."""


class WNMultiInputPolicy(NormMixin, MultiInputActorCriticPolicy):
    """SB3's ``MultiInputPolicy`` for PPO, A2C and TRPO, with a norm."""
