"""Normalised policies and callbacks for stable-baselines3 and sb3-contrib.

Importing this package teaches SB3 the policies by name: ``PPO("WNMlpPolicy", env)``.
"""

from sb3_contrib import RecurrentPPO
from stable_baselines3 import A2C, PPO

from wnrl.sb3.callbacks import LogNorms, StopAtNonFinite, check_finite
from wnrl.sb3.policies import (
    WNCnnLstmPolicy,
    WNCnnPolicy,
    WNMlpLstmPolicy,
    WNMlpPolicy,
    WNMultiInputLstmPolicy,
    WNMultiInputPolicy,
    with_norm,
)

__all__ = [
    "LogNorms",
    "StopAtNonFinite",
    "WNCnnLstmPolicy",
    "WNCnnPolicy",
    "WNMlpLstmPolicy",
    "WNMlpPolicy",
    "WNMultiInputLstmPolicy",
    "WNMultiInputPolicy",
    "check_finite",
    "with_norm",
]

for _algorithm in (PPO, A2C):
    for _policy in (WNMlpPolicy, WNCnnPolicy, WNMultiInputPolicy):
        _algorithm.policy_aliases[_policy.__name__] = _policy
for _recurrent in (WNMlpLstmPolicy, WNCnnLstmPolicy, WNMultiInputLstmPolicy):
    RecurrentPPO.policy_aliases[_recurrent.__name__] = _recurrent
