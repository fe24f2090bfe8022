"""Policies with a norm for DQN and QRDQN."""

from typing import TYPE_CHECKING, Any

from sb3_contrib.qrdqn import policies as qrdqn
from stable_baselines3.dqn import policies as dqn

from wnrl.sb3.data_init import Observations
from wnrl.sb3.rollout import RolloutMixin

if TYPE_CHECKING:
    _DQNPolicy = dqn.DQNPolicy
    _QRDQNPolicy = qrdqn.QRDQNPolicy
else:
    _DQNPolicy = _QRDQNPolicy = object


class ActingMixin(RolloutMixin):
    """``RolloutMixin`` for policies that act with ``predict``."""

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """As SB3's, whose rollouts call it."""
        self._keep()
        with self._as_asked():
            return super().predict(*args, **kwargs)


class DQNNormMixin(ActingMixin, _DQNPolicy):
    """``NormBase`` for DQN: the network and its target are converted as they are made."""

    def make_q_net(self) -> dqn.QNetwork:
        """SB3's network, with the norm."""
        return self._normed(super().make_q_net(), ("q_net",))

    def _run_hidden(self, obs: Observations) -> None:
        self.q_net.q_net(self.q_net.features_extractor(obs))


class QRDQNNormMixin(ActingMixin, _QRDQNPolicy):
    """``NormBase`` for QRDQN: the network and its target are converted as they are made."""

    def make_quantile_net(self) -> qrdqn.QuantileNetwork:
        """sb3-contrib's network, with the norm."""
        return self._normed(super().make_quantile_net(), ("quantile_net",))

    def _run_hidden(self, obs: Observations) -> None:
        self.quantile_net.quantile_net(self.quantile_net.features_extractor(obs))


class WNDQNMlpPolicy(DQNNormMixin, dqn.DQNPolicy):
    """SB3's ``MlpPolicy`` for DQN, with a norm."""


class WNDQNCnnPolicy(DQNNormMixin, dqn.CnnPolicy):
    """SB3's ``CnnPolicy`` for DQN, with a norm."""


class WNDQNMultiInputPolicy(DQNNormMixin, dqn.MultiInputPolicy):
    """SB3's ``MultiInputPolicy`` for DQN, with a norm."""


class WNQRDQNMlpPolicy(QRDQNNormMixin, qrdqn.QRDQNPolicy):
    """sb3-contrib's ``MlpPolicy`` for QRDQN, with a norm."""


class WNQRDQNCnnPolicy(QRDQNNormMixin, qrdqn.CnnPolicy):
    """sb3-contrib's ``CnnPolicy`` for QRDQN, with a norm."""


class WNQRDQNMultiInputPolicy(QRDQNNormMixin, qrdqn.MultiInputPolicy):
    """sb3-contrib's ``MultiInputPolicy`` for QRDQN, with a norm."""
