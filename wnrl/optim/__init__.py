"""Weight norm as part of the optimizer, projection after each step, and parameter groups.

The network stays plain; the optimizer owns v and g, receives ∇w, steps on v and g with the
gradients of equation 3 (Salimans & Kingma 2016, arXiv:1602.07868) and writes w = g v/‖v‖ back::

    optimizer = WNAdam(net.parameters(), lr=3e-4)
"""

from wnrl.nn.projection import project_
from wnrl.optim.groups import ProjectionHook, param_groups, project_after_step
from wnrl.optim.optimizers import (
    WNSGD,
    WeightNormalized,
    WNAdam,
    WNAdamax,
    WNAdamW,
    WNRMSprop,
    weight_normalized,
)

__all__ = [
    "WNSGD",
    "ProjectionHook",
    "WNAdam",
    "WNAdamW",
    "WNAdamax",
    "WNRMSprop",
    "WeightNormalized",
    "param_groups",
    "project_",
    "project_after_step",
    "weight_normalized",
]
