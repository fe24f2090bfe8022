"""A norm for a user's own policy class, and a policy class for each norm."""

from collections.abc import Mapping
from functools import cache

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


def _word(norm: str) -> str:
    return "".join(part.capitalize() for part in norm.split("_"))


@cache
def policy_of(base: type[BasePolicy], norm: str) -> type[BasePolicy]:
    """Return one of our policies with another norm: ``LayerMlpPolicy`` of ``WNMlpPolicy``."""
    name = _word(norm) + base.__name__.removeprefix("WN")
    text = f"``{base.__name__}`` with norm ``{norm}``, unless told otherwise."
    return type(name, (base,), {"default_norm": norm, "__module__": "wnrl.sb3", "__doc__": text})


def find_policy(name: str, known: Mapping[str, type[BasePolicy]]) -> type[BasePolicy] | None:
    """Return the policy of that name, which begins with the norm's; None if there is no such.

    Args:
        name: ``BatchRenormMlpPolicy``, say.
        known: our policies by name, ``WNMlpPolicy`` among them.
    """
    for norm in NORMS:
        word = _word(norm)
        base = known.get("WN" + name.removeprefix(word))
        if name.startswith(word) and base is not None:
            return policy_of(base, norm)
    return None


class PolicyNames(dict[str, type[BasePolicy]]):
    """The policies of an algorithm by name, among them one for each norm and policy of ours.

    These are looked up in ``NORMS`` when they are asked for, so that a norm that is added later has
    its names.
    """

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or find_policy(str(name), self) is not None

    def __missing__(self, name: str) -> type[BasePolicy]:
        if (policy := find_policy(name, self)) is None:
            raise KeyError(name)
        return policy
