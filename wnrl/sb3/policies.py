"""A norm for a user's own policy class."""

from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.crossq.policies import CrossQPolicy
from sb3_contrib.qrdqn.policies import QRDQNPolicy
from sb3_contrib.tqc.policies import TQCPolicy
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy

from wnrl.errors import UsageError, check_choice
from wnrl.norms import NORMS
from wnrl.sb3.actor_critic import NormMixin
from wnrl.sb3.common import NormBase
from wnrl.sb3.continuous import ContinuousMixin
from wnrl.sb3.crossq import CrossQMixin
from wnrl.sb3.q_network import QNormMixin
from wnrl.sb3.recurrent import RecurrentNormMixin

MIXINS: dict[type, type] = {
    RecurrentActorCriticPolicy: RecurrentNormMixin,
    ActorCriticPolicy: NormMixin,
    MaskableActorCriticPolicy: NormMixin,
    DQNPolicy: QNormMixin,
    QRDQNPolicy: QNormMixin,
    SACPolicy: ContinuousMixin,
    TD3Policy: ContinuousMixin,
    TQCPolicy: ContinuousMixin,
    CrossQPolicy: CrossQMixin,
}
"""The mixin of each family of policies; of two that fit, the first one counts."""


def with_norm(policy_class: type[BasePolicy], norm: str = "weight") -> type[BasePolicy]:
    """A user's own policy class, with the arguments of ``NormBase`` as further ones.

    SB3's ``save`` and ``load`` take what it returns as it is. Plain pickle looks classes up by
    name, and needs it as ``WN<name>`` at the top level of the module that has the class:
    ``WNMyPolicy = with_norm(MyPolicy)``.

    Args:
        policy_class: a subclass of one of the policies in ``MIXINS``.
        norm: the key of ``NORMS`` that the new class takes unless told otherwise.

    Raises:
        UsageError: the class is no such policy, or the norm is unknown.
    """
    check_choice("norm", norm, NORMS)
    if not issubclass(policy_class, tuple(MIXINS)):
        known = ", ".join(family.__name__ for family in MIXINS)
        got = policy_class.__name__
        raise UsageError(f"policy_class must be a subclass of one of {known}, got {got}")
    bases: tuple[type, ...] = (policy_class,)
    if not issubclass(policy_class, NormBase):
        mixin = next(mixin for family, mixin in MIXINS.items() if issubclass(policy_class, family))
        bases = (mixin, policy_class)
    return type(
        f"WN{policy_class.__name__}",
        bases,
        {"default_norm": norm, "__module__": policy_class.__module__},
    )
