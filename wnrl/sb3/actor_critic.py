"""Policies with a norm for PPO, A2C, TRPO and MaskablePPO."""

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

from wnrl.sb3.common import NormBase

HEADS = ("action_net", "value_net")


class NormMixin(NormBase):
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


class WNMaskableMlpPolicy(NormMixin, MaskableActorCriticPolicy):
    """sb3-contrib's ``MlpPolicy`` for MaskablePPO, with a norm."""


class WNMaskableCnnPolicy(NormMixin, MaskableActorCriticCnnPolicy):
    """sb3-contrib's ``CnnPolicy`` for MaskablePPO, with a norm."""


class WNMaskableMultiInputPolicy(NormMixin, MaskableMultiInputActorCriticPolicy):
    """sb3-contrib's ``MultiInputPolicy`` for MaskablePPO, with a norm."""
