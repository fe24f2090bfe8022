"""Policies with a norm for DQN and QRDQN."""

from typing import Any

from sb3_contrib.qrdqn import policies as qrdqn
from stable_baselines3.dqn import policies as dqn

from wnrl.sb3.common import NormBase
from wnrl.sb3.parts import Observations


class QNormMixin(NormBase):
    """``NormBase`` for DQN and QRDQN: a network and its target are converted as they are made.

    Weights are not kept between actions, of which there are few from one update to the next.
    """

    def make_q_net(self) -> Any:
        """SB3's network of DQN, with the norm."""
        return self._normed(super().make_q_net(), ("q_net",))  # type: ignore[misc]

    def make_quantile_net(self) -> Any:
        """sb3-contrib's network of QRDQN, with the norm."""
        return self._normed(super().make_quantile_net(), ("quantile_net",))  # type: ignore[misc]

    def _run_hidden(self, obs: Observations) -> None:
        name = "q_net" if hasattr(self, "q_net") else "quantile_net"
        net: Any = self.get_submodule(name)
        net.get_submodule(name)(net.features_extractor(obs))


class WNDQNMlpPolicy(QNormMixin, dqn.DQNPolicy):
    """SB3's ``MlpPolicy`` for DQN, with a norm."""


class WNDQNCnnPolicy(QNormMixin, dqn.CnnPolicy):
    """SB3's ``CnnPolicy`` for DQN, with a norm."""


class WNDQNMultiInputPolicy(QNormMixin, dqn.MultiInputPolicy):
    """SB3's ``MultiInputPolicy`` for DQN, with a norm."""


class WNQRDQNMlpPolicy(QNormMixin, qrdqn.QRDQNPolicy):
    """sb3-contrib's ``MlpPolicy`` for QRDQN, with a norm."""


class WNQRDQNCnnPolicy(QNormMixin, qrdqn.CnnPolicy):
    """sb3-contrib's ``CnnPolicy`` for QRDQN, with a norm."""


class WNQRDQNMultiInputPolicy(QNormMixin, qrdqn.MultiInputPolicy):
    """sb3-contrib's ``MultiInputPolicy`` for QRDQN, with a norm."""
