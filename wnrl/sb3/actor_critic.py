"""Policies with a norm for PPO, A2C, TRPO and MaskablePPO."""

from typing import Any, Self

import torch
from sb3_contrib.common.maskable import policies as maskable
from stable_baselines3.common import policies

from wnrl.errors import UsageError
from wnrl.nn import frozen
from wnrl.sb3.common import NormBase
from wnrl.sb3.data_init import FirstRollout
from wnrl.sb3.parts import Observations


class NormMixin(FirstRollout, NormBase):
    """``NormBase`` for policies in which actor and critic have one optimizer.

    A rollout computes each weight once: its first action opens ``frozen``, which lasts until the
    update, or until ``predict``, ``train`` or ``eval`` is called. Where a callback has ended
    training in the middle of a rollout, a write through ``.data`` needs ``wnrl.invalidate(policy)``
    or one of these afterwards; what leaves a trace is seen.

    TRPO steps the actor without its optimizer: under ``projected``, rows return to the sphere with
    the first step of the critic, after the line search has checked the trust region.
    """

    _collecting = False
    _rollout: frozen | None = None

    def _after_init(self) -> None:
        group, *others = self.__dict__.pop("optimizer").param_groups  # of what conversion replaces
        if others:
            raise UsageError(
                f"{type(self).__name__} has an optimizer of {1 + len(others)} parameter groups; "
                "a policy with a norm can have only one"
            )
        self._normed(self, ("action_net", "value_net"))
        optimizer: Any = self.optimizer_class
        self.optimizer = optimizer(self.parameters(), lr=group["lr"], **self.optimizer_kwargs)

    def train(self, mode: bool = True) -> Self:
        """As torch's; weights are computed anew behind it."""
        self._collecting = False
        if self._rollout is not None:
            self._rollout.__exit__(None, None, None)
            self._rollout = None
        return super().train(mode)

    def set_training_mode(self, mode: bool) -> None:
        """As SB3's, which calls it at the start of each rollout and of each update."""
        super().set_training_mode(mode)
        self._collecting = not mode

    def forward(self, obs: Any, *args: Any, **kwargs: Any) -> Any:
        """As SB3's, whose rollouts call it."""
        self.see_action(obs)
        if self._collecting and self._rollout is None and not torch.is_grad_enabled():
            self._rollout = frozen(self)
            self._rollout.__enter__()
        return super().forward(obs, *args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """As SB3's, which switches to evaluation too, but begins no rollout."""
        collecting = self._collecting
        try:
            return super().predict(*args, **kwargs)
        finally:
            self._collecting = collecting

    def evaluate_actions(self, obs: Any, actions: Any, *args: Any, **kwargs: Any) -> Any:
        """As SB3's; ``wnrl.sb3.data_init`` says what differs in the first update after it."""
        change = self.log_prob_change(obs, actions, *args, **kwargs)
        values, log_prob, entropy = self._evaluate(obs, actions, *args, **kwargs)
        return values, log_prob + change, entropy

    def _evaluate(self, *args: Any, **kwargs: Any) -> Any:
        return super().evaluate_actions(*args, **kwargs)  # type: ignore[misc]

    def _run_hidden(self, obs: Observations) -> None:
        features = self.pi_features_extractor(obs)
        self.mlp_extractor.forward_actor(features)
        if self.vf_features_extractor is not self.pi_features_extractor:
            features = self.vf_features_extractor(obs)
        self.mlp_extractor.forward_critic(features)

    def __getstate__(self) -> dict[str, Any]:
        # Copies are in no rollout.
        return {**super().__getstate__(), "_rollout": None, "_collecting": False}


class WNMlpPolicy(NormMixin, policies.ActorCriticPolicy):
    """SB3's ``MlpPolicy`` for PPO, A2C and TRPO, with a norm."""


class WNCnnPolicy(NormMixin, policies.ActorCriticCnnPolicy):
    """SB3's ``CnnPolicy`` for PPO, A2C and TRPO, with a norm."""


class WNMultiInputPolicy(NormMixin, policies.MultiInputActorCriticPolicy):
    """SB3's ``MultiInputPolicy`` for PPO, A2C and TRPO, with a norm."""


class WNMaskableMlpPolicy(NormMixin, maskable.MaskableActorCriticPolicy):
    """sb3-contrib's ``MlpPolicy`` for MaskablePPO, with a norm."""


class WNMaskableCnnPolicy(NormMixin, maskable.MaskableActorCriticCnnPolicy):
    """sb3-contrib's ``CnnPolicy`` for MaskablePPO, with a norm."""


class WNMaskableMultiInputPolicy(NormMixin, maskable.MaskableMultiInputActorCriticPolicy):
    """sb3-contrib's ``MultiInputPolicy`` for MaskablePPO, with a norm."""
