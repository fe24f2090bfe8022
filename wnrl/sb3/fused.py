"""Adam in one kernel.

On a CPU torch's Adam loops over the parameters in Python, a dozen operations for each; weight norm
has two for each weight. The fused kernel is the same rule in one call: for the small networks of
PPO and DQN that is a tenth of an update, plain or normalised.
"""

import torch
from torch.optim import Optimizer

FUSIBLE = (torch.optim.Adam, torch.optim.AdamW)


def use_fused(optimizer: Optimizer) -> None:
    """Lets an Adam that has not stepped yet use torch's fused kernel, if nobody chose otherwise.

    A choice is ``optimizer_kwargs`` with ``fused``, ``foreach`` or ``differentiable``. Optimizers
    of other types, subclasses of Adam among them, stay as they are. What a fused Adam computes
    differs from the loop's in the last digits.
    """
    if type(optimizer) in FUSIBLE:
        for options in (optimizer.defaults, *optimizer.param_groups):
            if options["fused"] is options["foreach"] is None and not options["differentiable"]:
                options["fused"] = True
