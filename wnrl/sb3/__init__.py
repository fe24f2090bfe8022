"""Normalized policies and callbacks for stable-baselines3 and sb3-contrib.

Importing this package teaches SB3 the policies by name: ``PPO("WNMlpPolicy", env)``, or with the
name of a norm in the place of ``WN``: ``PPO("LayerMlpPolicy", env)``. The classes are here too.
"""

from stable_baselines3.common.policies import BasePolicy

from wnrl.arguments import guard
from wnrl.sb3.callbacks import Diagnostics, StopAtNonFinite, check_finite
from wnrl.sb3.deploy import FoldedActor
from wnrl.sb3.policies import ALIASES, POLICIES, PolicyNames, find_policy, with_norm
from wnrl.sb3.vae_extractor import VAEExtractor

for _algorithm, _policies in ALIASES.items():
    _algorithm.policy_aliases = PolicyNames({**_algorithm.policy_aliases, **_policies})

globals().update(POLICIES)
__all__ = [
    "ALIASES", "Diagnostics", "FoldedActor", "StopAtNonFinite", "VAEExtractor", "check_finite",
    "with_norm", *POLICIES,
]  # fmt: skip


def __getattr__(name: str) -> type[BasePolicy]:
    """Return a policy with the name of a norm, which pickle looks up here."""
    if (policy := find_policy(name, POLICIES)) is None:
        raise AttributeError(f"module 'wnrl.sb3' has no attribute {name!r}")
    return policy


guard(globals(), __all__)
