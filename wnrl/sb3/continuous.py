"""Policies with a norm for SAC, TD3 (DDPG) and TQC."""

from typing import TYPE_CHECKING, Any

import torch
from sb3_contrib.tqc import policies as tqc
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.sac import policies as sac
from stable_baselines3.td3 import policies as td3
from torch import nn

from wnrl.sb3.batch_statistics import (
    CriticForward,
    LearningForward,
    TargetForward,
    batch_norms,
    counterparts,
    use_batch_statistics,
)
from wnrl.sb3.common import NormBase, check_flag
from wnrl.sb3.data_init import Observations

if TYPE_CHECKING:

    class _Policy(BasePolicy):
        """What the policies of the family have in common, which SB3 has no class for."""

        actor: Any
        critic: Any
        critic_target: Any

        def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor: ...
        def make_actor(self, features_extractor: BaseFeaturesExtractor | None) -> Any: ...
        def make_critic(self, features_extractor: BaseFeaturesExtractor | None) -> Any: ...
        def _build(self, lr_schedule: Schedule) -> None: ...

else:
    _Policy = object


class ContinuousMixin(NormBase, _Policy):
    """``NormBase`` for policies of an actor and critics that learn from a replay buffer.

    Actor and critic are converted as SB3 makes them, before it makes their optimizers and loads
    their targets. Batch norms use the statistics of the batch in the forward that their network
    learns from, and in that of its target: ``wnrl.sb3.batch_statistics`` has the reasons. SB3
    copies the running statistics to targets.

    Weights are not kept between actions: with an update for each action there is nothing to gain,
    and a ``predict`` after a write through ``.data`` has to be right. Evaluations of many steps can
    run under ``wnrl.frozen(model.policy)``.

    Args:
        *args: those of the policy.
        joint_statistics: whether the critic's batch norms see (s, a) and (s', a') as one batch,
            and those of its target (s', a') instead of running statistics. It doubles the critic's
            batch and is without effect under norms that have no batch statistics.
        **kwargs: those of ``NormBase`` and of the policy.
    """

    def __init__(self, *args: Any, joint_statistics: bool = True, **kwargs: Any) -> None:
        self.joint_statistics = check_flag("joint_statistics", joint_statistics)
        super().__init__(*args, **kwargs)

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        """SB3's actor, with the norm."""
        return self._normed(super().make_actor(features_extractor), ("mu", "log_std"))

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        """SB3's critic, with the norm."""
        critic = super().make_critic(features_extractor)
        names = [name for name, _ in critic.named_children() if name != "features_extractor"]
        return self._normed(critic, names)

    def _after_init(self) -> None:
        for part in self.actor.children():
            if norms := batch_norms(part):
                LearningForward(self.actor, part, norms)
        actors = {id(norm) for norm in batch_norms(self.actor)}
        self._watch_critic([norm for norm in batch_norms(self.critic) if id(norm) not in actors])
        self._batch_norms: list[nn.Module] = batch_norms(self.actor, self.critic)

    def _watch_critic(self, norms: list[nn.Module]) -> None:
        """Has ``norms``, the batch norms that the critic trains, use the batch where it learns."""
        target = self.critic_target if self.joint_statistics else None
        if norms:
            CriticForward(self.critic, norms, target)
        if norms and target is not None:
            TargetForward(self.critic, target, counterparts(self.critic, norms, target))

    def _run_hidden(self, obs: Observations) -> None:
        actor, critic = self.actor, self.critic
        features = actor.features_extractor(obs)
        actor.mu(actor.latent_pi(features) if hasattr(actor, "latent_pi") else features)
        if critic.features_extractor is not actor.features_extractor:
            features = critic.features_extractor(obs)
        # What a replay buffer has at first: uniform actions. The generator is not the run's.
        size = (len(features), get_action_dim(self.action_space))
        actions = 2 * torch.rand(size, generator=torch.Generator().manual_seed(0)) - 1
        state_actions = torch.cat([features, actions.to(features)], dim=1)
        for q_network in critic.q_networks:
            q_network(state_actions)

    def set_training_mode(self, mode: bool) -> None:
        """As SB3's; batch norms leave evaluation only while their network learns."""
        super().set_training_mode(mode)
        use_batch_statistics(self._batch_norms, False)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "joint_statistics": self.joint_statistics}


class WNSACMlpPolicy(ContinuousMixin, sac.SACPolicy):
    """SB3's ``MlpPolicy`` for SAC, with a norm."""


class WNSACCnnPolicy(ContinuousMixin, sac.CnnPolicy):
    """SB3's ``CnnPolicy`` for SAC, with a norm."""


class WNSACMultiInputPolicy(ContinuousMixin, sac.MultiInputPolicy):
    """SB3's ``MultiInputPolicy`` for SAC, with a norm."""


class WNTD3MlpPolicy(ContinuousMixin, td3.TD3Policy):
    """SB3's ``MlpPolicy`` for TD3 and DDPG, with a norm."""


class WNTD3CnnPolicy(ContinuousMixin, td3.CnnPolicy):
    """SB3's ``CnnPolicy`` for TD3 and DDPG, with a norm."""


class WNTD3MultiInputPolicy(ContinuousMixin, td3.MultiInputPolicy):
    """SB3's ``MultiInputPolicy`` for TD3 and DDPG, with a norm."""


class WNTQCMlpPolicy(ContinuousMixin, tqc.TQCPolicy):
    """sb3-contrib's ``MlpPolicy`` for TQC, with a norm."""


class WNTQCCnnPolicy(ContinuousMixin, tqc.CnnPolicy):
    """sb3-contrib's ``CnnPolicy`` for TQC, with a norm."""


class WNTQCMultiInputPolicy(ContinuousMixin, tqc.MultiInputPolicy):
    """sb3-contrib's ``MultiInputPolicy`` for TQC, with a norm."""
