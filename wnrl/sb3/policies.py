"""The policies of each algorithm by name, one for each norm, and a norm for a user's own class."""

from collections.abc import Mapping
from functools import cache

from sb3_contrib import QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy

from wnrl.errors import UsageError, check_choice
from wnrl.norms import NORMS
from wnrl.sb3 import actor_critic, continuous, crossq, q_network, recurrent
from wnrl.sb3.common import NormBase

ALGORITHMS = (PPO, A2C, TRPO, MaskablePPO, DQN, QRDQN, SAC, TD3, TQC, CrossQ, RecurrentPPO)
POLICIES: dict[str, type[BasePolicy]] = {
    name: policy
    for module in (actor_critic, q_network, continuous, crossq, recurrent)
    for name, policy in vars(module).items()
    if name.startswith("WN")
}
"""Our policies by name."""
_of_stock = {policy.__bases__[-1]: policy for policy in POLICIES.values()}
ALIASES: dict[type[BaseAlgorithm], dict[str, type[BasePolicy]]] = {
    algorithm: {
        f"WN{alias}": _of_stock[stock]
        for alias, stock in algorithm.policy_aliases.items()
        if stock in _of_stock
    }
    for algorithm in ALGORITHMS
}
"""The policies that SB3 knows by name once ``wnrl.sb3`` is imported, by algorithm."""
ALIASES[RecurrentPPO] |= {name: policy for name, policy in POLICIES.items() if "Gru" in name}
MIXINS: dict[type, type] = {}
"""From SB3's policy for vectors, of each family, to the mixin in front of it."""
for _policies in ALIASES.values():
    _mixin, _stock = next(iter(_policies.values())).__bases__
    MIXINS[_stock] = _mixin


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
        known, got = ", ".join(family.__name__ for family in MIXINS), policy_class.__name__
        raise UsageError(f"policy_class must be a subclass of one of {known}, got {got}")
    bases: tuple[type, ...] = (policy_class,)
    if not issubclass(policy_class, NormBase):
        mixin = next(MIXINS[base] for base in policy_class.__mro__ if base in MIXINS)
        bases = (mixin, policy_class)
    own = {"default_norm": norm, "__module__": policy_class.__module__}
    return type(f"WN{policy_class.__name__}", bases, own)


@cache
def policy_of(base: type[BasePolicy], norm: str, word: str) -> type[BasePolicy]:
    """Return one of our policies with another norm: ``LayerMlpPolicy`` of ``WNMlpPolicy``."""
    name = base.__name__.replace("WN", word, 1)
    text = f"``{base.__name__}`` with norm ``{norm}``, unless told otherwise."
    return type(name, (base,), {"default_norm": norm, "__module__": "wnrl.sb3", "__doc__": text})


def find_policy(name: str, known: Mapping[str, type[BasePolicy]]) -> type[BasePolicy] | None:
    """Return the policy of that name, which begins with the norm's; None if there is no such.

    Args:
        name: ``BatchRenormMlpPolicy``, say.
        known: our policies by name, ``WNMlpPolicy`` among them.
    """
    for norm in NORMS:
        word = "".join(part.capitalize() for part in norm.split("_"))
        base = known.get("WN" + name.removeprefix(word))
        if name.startswith(word) and base is not None:
            return policy_of(base, norm, word)
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
