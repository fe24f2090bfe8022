"""Normalized policies and callbacks for stable-baselines3 and sb3-contrib.

Importing this package teaches SB3 the policies by name: ``PPO("WNMlpPolicy", env)``, or with the
name of a norm in the place of ``WN``: ``PPO("LayerMlpPolicy", env)``. The classes are here too.
"""

from typing import TYPE_CHECKING

from sb3_contrib import QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy

from wnrl.arguments import guard
from wnrl.sb3.actor_critic import (
    WNCnnPolicy,
    WNMaskableCnnPolicy,
    WNMaskableMlpPolicy,
    WNMaskableMultiInputPolicy,
    WNMlpPolicy,
    WNMultiInputPolicy,
)
from wnrl.sb3.callbacks import StopAtNonFinite, check_finite
from wnrl.sb3.continuous import (
    WNSACCnnPolicy,
    WNSACMlpPolicy,
    WNSACMultiInputPolicy,
    WNTD3CnnPolicy,
    WNTD3MlpPolicy,
    WNTD3MultiInputPolicy,
    WNTQCCnnPolicy,
    WNTQCMlpPolicy,
    WNTQCMultiInputPolicy,
)
from wnrl.sb3.crossq import WNCrossQMlpPolicy
from wnrl.sb3.deploy import FoldedActor
from wnrl.sb3.diagnostics import Diagnostics
from wnrl.sb3.policies import PolicyNames, find_policy, with_norm
from wnrl.sb3.q_network import (
    WNDQNCnnPolicy,
    WNDQNMlpPolicy,
    WNDQNMultiInputPolicy,
    WNQRDQNCnnPolicy,
    WNQRDQNMlpPolicy,
    WNQRDQNMultiInputPolicy,
)
from wnrl.sb3.recurrent import (
    WNCnnGruPolicy,
    WNCnnLstmPolicy,
    WNMlpGruPolicy,
    WNMlpLstmPolicy,
    WNMultiInputGruPolicy,
    WNMultiInputLstmPolicy,
)
from wnrl.sb3.vae_extractor import VAEExtractor

__all__ = [
    "ALIASES",
    "Diagnostics",
    "FoldedActor",
    "StopAtNonFinite",
    "VAEExtractor",
    "WNCnnGruPolicy",
    "WNCnnLstmPolicy",
    "WNCnnPolicy",
    "WNCrossQMlpPolicy",
    "WNDQNCnnPolicy",
    "WNDQNMlpPolicy",
    "WNDQNMultiInputPolicy",
    "WNMaskableCnnPolicy",
    "WNMaskableMlpPolicy",
    "WNMaskableMultiInputPolicy",
    "WNMlpGruPolicy",
    "WNMlpLstmPolicy",
    "WNMlpPolicy",
    "WNMultiInputGruPolicy",
    "WNMultiInputLstmPolicy",
    "WNMultiInputPolicy",
    "WNQRDQNCnnPolicy",
    "WNQRDQNMlpPolicy",
    "WNQRDQNMultiInputPolicy",
    "WNSACCnnPolicy",
    "WNSACMlpPolicy",
    "WNSACMultiInputPolicy",
    "WNTD3CnnPolicy",
    "WNTD3MlpPolicy",
    "WNTD3MultiInputPolicy",
    "WNTQCCnnPolicy",
    "WNTQCMlpPolicy",
    "WNTQCMultiInputPolicy",
    "check_finite",
    "with_norm",
]

_ACTOR_CRITIC = (WNMlpPolicy, WNCnnPolicy, WNMultiInputPolicy)
_POLICIES: dict[type[BaseAlgorithm], tuple[type[BasePolicy], ...]] = {
    PPO: _ACTOR_CRITIC,
    A2C: _ACTOR_CRITIC,
    TRPO: _ACTOR_CRITIC,
    MaskablePPO: (WNMaskableMlpPolicy, WNMaskableCnnPolicy, WNMaskableMultiInputPolicy),
    DQN: (WNDQNMlpPolicy, WNDQNCnnPolicy, WNDQNMultiInputPolicy),
    QRDQN: (WNQRDQNMlpPolicy, WNQRDQNCnnPolicy, WNQRDQNMultiInputPolicy),
    SAC: (WNSACMlpPolicy, WNSACCnnPolicy, WNSACMultiInputPolicy),
    TD3: (WNTD3MlpPolicy, WNTD3CnnPolicy, WNTD3MultiInputPolicy),
    TQC: (WNTQCMlpPolicy, WNTQCCnnPolicy, WNTQCMultiInputPolicy),
    CrossQ: (WNCrossQMlpPolicy,),
}
_RECURRENT = (
    *(WNMlpLstmPolicy, WNCnnLstmPolicy, WNMultiInputLstmPolicy),
    *(WNMlpGruPolicy, WNCnnGruPolicy, WNMultiInputGruPolicy),
)
_NAMES = ("WNMlpPolicy", "WNCnnPolicy", "WNMultiInputPolicy")
ALIASES: dict[type[BaseAlgorithm], dict[str, type[BasePolicy]]] = {
    **{algorithm: dict(zip(_NAMES, kinds, strict=False)) for algorithm, kinds in _POLICIES.items()},
    RecurrentPPO: {policy.__name__: policy for policy in _RECURRENT},
}
"""The policies that SB3 knows by name once this package is imported, by algorithm."""

for _algorithm, _policies in ALIASES.items():
    _algorithm.policy_aliases = PolicyNames({**_algorithm.policy_aliases, **_policies})

if not TYPE_CHECKING:

    def __getattr__(name: str) -> type[BasePolicy]:
        """Return a policy with the name of a norm, which pickle looks up here."""
        known = {key: value for key, value in globals().items() if key in __all__}
        if (policy := find_policy(name, known)) is None:
            raise AttributeError(f"module 'wnrl.sb3' has no attribute {name!r}")
        return policy


guard(globals(), __all__)
