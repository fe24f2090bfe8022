"""Policies with a norm for SAC, TD3 (DDPG) and TQC, and their batch statistics.

The training loops of stable-baselines3 put actor and critic into train mode and leave them there.
With batch norm that is wrong in five places: SAC and TQC draw the next actions from the statistics
of the next batch and mix those into the running ones; the loss of the actor runs the critic on
(s, π(s)), which changes the critic's statistics and lets the examples of the actor's batch reach
each other through them; TD3's ``q1_forward`` does the same behind ``critic.__call__``; a critic
that does not train a shared features extractor still moves its statistics; and the critic learns
from (s, a) alone, so that (s', a'), which its target then evaluates with the same statistics, is
out of distribution (Bhatt et al. 2024, arXiv:1902.05605, which is CrossQ, section 3).

Here a batch norm tracks the batch in one place only: the forward that its network learns from.
That is, for an actor, a forward with grad; for a critic, a forward with grad whose actions have
none (actions that carry a gradient come from an actor that learns). Everywhere else the running
statistics stay as they are, and are used but by targets, as said below.

Joint statistics are CrossQ's remedy for the last point, brought to algorithms with target networks:
the target hands (s', a') to the critic, which runs them and (s, a) as one batch when it learns. Its
statistics are then those of the mixture, and so are the running ones, which stable-baselines3
copies to the target. The target itself uses the statistics of (s', a') in an update, and leaves its
running ones alone: what chance does to the statistics of a batch shifts the values of critic and
target alike. With running statistics in the target the critic is regressed on values without that
shift, and takes it for error.
"""

from typing import Any, ClassVar

import torch
from sb3_contrib.tqc import policies as tqc
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.sac import policies as sac
from stable_baselines3.td3 import policies as td3
from torch import Tensor, nn

from wnrl.sb3.common import NormBase
from wnrl.sb3.parts import Observations, Part, batch_norms, batch_statistics, cat_obs


class Actor(Part):
    """Mixin for an actor."""

    def action_log_prob(self, obs: Observations) -> Any:
        """Return SB3's actions and their log-probabilities."""
        self.prepare(obs)
        with batch_statistics(self.norms, self.training and torch.is_grad_enabled()):
            return super().action_log_prob(obs)  # type: ignore[misc]


class Critic(Part):
    """Mixin for a critic of observations and actions, and for its target.

    Attributes:
        next_batch: (s', a') of an update, until the critic learns.
    """

    next_batch: tuple[Observations, Tensor] | None = None

    def forward(self, obs: Observations, *args: Any, **kwargs: Any) -> Any:
        """Return SB3's values of observations and actions, ``(B, ...)`` both."""
        self.prepare(obs)
        (actions,) = (*args, *kwargs.values())
        # Actions that carry a gradient come from an actor that learns.
        learns = self.training and torch.is_grad_enabled() and not actions.requires_grad
        return self.values(learns, obs, actions)

    def values(self, learns: bool, obs: Observations, actions: Tensor) -> Any:
        """Return what ``forward`` does; ``learns`` says whether the critic learns from it."""
        if self.online:
            return self._follow(obs, actions)
        if self.next_batch is None or not learns:
            return self.run(learns, obs, actions)
        (next_obs, next_actions), self.next_batch = self.next_batch, None
        both = cat_obs((obs, next_obs)), torch.cat([actions, next_actions.detach()])
        values, n = self.run(True, *both), len(actions)
        return values[:n] if isinstance(values, Tensor) else tuple(q[:n] for q in values)

    def _follow(self, obs: Observations, actions: Tensor) -> Any:
        """Return a target's values, by the statistics of the batch in an update."""
        (critic,) = self.online
        learning = len(self.norms) > 0 and critic.training
        critic.next_batch = (obs, actions) if learning else None
        running = [buffer for norm in self.norms for buffer in norm.buffers()] if learning else []
        before = [buffer.clone() for buffer in running]
        try:
            return self.run(learning, obs, actions)
        finally:
            for buffer, value in zip(running, before, strict=True):
                buffer.copy_(value)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "next_batch": None}  # type: ignore[no-untyped-call]


class ContinuousMixin(NormBase):
    """``NormBase`` for policies of an actor and critics that learn from a replay buffer.

    Actor and critic are converted as SB3 makes them, before it makes their optimizers and loads
    their targets. SB3 copies the running statistics to targets.

    Weights are not kept between actions: with an update for each action there is nothing to gain,
    and a ``predict`` after a write through ``.data`` has to be right. Evaluations of many steps can
    run under ``wnrl.frozen(model.policy)``.

    Args:
        *args: those of the policy.
        **kwargs: those of ``NormBase`` and of the policy.
    """

    actor_mixin: ClassVar[type[Actor]] = Actor
    critic_mixin: ClassVar[type[Critic]] = Critic

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        """SB3's actor, with the norm."""
        actor = super().make_actor(features_extractor)  # type: ignore[misc]
        self._normed(actor, ("mu", "log_std"), self.actor_mixin)
        actor.norms = batch_norms(actor)
        return actor

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        """SB3's critic, with the norm."""
        critic = super().make_critic(features_extractor)  # type: ignore[misc]
        names = [name for name, _ in critic.named_children() if name != "features_extractor"]
        self._normed(critic, names, self.critic_mixin)
        # A shared extractor learns with the actor.
        others = critic.features_extractor if self.share_features_extractor else None
        critic.norms = batch_norms(*(part for part in critic.children() if part is not others))
        return critic

    def _run_hidden(self, obs: Observations) -> None:
        actor, critic = self.actor, self.critic
        features = actor.features_extractor(obs)
        self._run_net(getattr(actor, "latent_pi", actor.mu), features)
        if critic.features_extractor is not actor.features_extractor:
            features = critic.features_extractor(obs)
        # What a replay buffer has at first: uniform actions. The generator is not the run's.
        size = (len(features), get_action_dim(self.action_space))
        actions = 2 * torch.rand(size, generator=torch.Generator().manual_seed(0)) - 1
        state_actions = torch.cat([features, actions.to(features)], dim=1)
        for q_network in critic.q_networks:
            self._run_net(q_network, state_actions)

    def _run_net(self, net: nn.Sequential, x: Tensor) -> Tensor:
        """Run a network on what comes before it, for ``data_init``."""
        return net(x)

    def set_training_mode(self, mode: bool) -> None:
        """As SB3's; batch norms leave evaluation only while their network learns."""
        super().set_training_mode(mode)
        for norm in batch_norms(self.actor, self.critic) if mode else ():
            norm.training = False


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
