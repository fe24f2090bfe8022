"""The optimizers of a policy: what they must have, and what is done around their steps."""

from torch import nn
from torch.optim import Adam, AdamW, Optimizer

from wnrl.errors import UsageError
from wnrl.optim import WeightNormalized, layer_weights


def find_optimizers(policy: nn.Module) -> list[tuple[nn.Module, Optimizer]]:
    """The optimizers of a policy, each with the part of it that has it."""
    owned = [(part, getattr(part, "optimizer", None)) for part in policy.modules()]
    return [(part, found) for part, found in owned if isinstance(found, Optimizer)]


def check_optimized(module: nn.Module, *optimizers: Optimizer) -> None:
    """Raises UsageError if a parameter of ``module`` is in none of the optimizers."""
    held = {id(p) for o in optimizers for group in o.param_groups for p in group["params"]}
    lost = [name for name, p in module.named_parameters() if id(p) not in held]
    if lost:
        raise UsageError(f"parameters in no optimizer: {', '.join(lost)}")


def spare_from_decay(optimizer: Optimizer, module: nn.Module) -> None:
    """Moves what weight decay is not for into a group without, before the first step.

    Decay of v only raises the effective learning rate, that of g shrinks w, and projection undoes
    that of the rows. What remains are plain weights with a length of their own: the output layers,
    where CrossQ with projected weights has its decay (Palenicek et al. 2025, arXiv:2502.07523).

    Args:
        optimizer: one without weight decay, or with several groups, stays as it is.
        module: has its parameters.
    """
    group, *others = optimizer.param_groups
    if others or not group.get("weight_decay") or isinstance(optimizer, WeightNormalized):
        return
    layers = [layer for layer in module.modules() if not getattr(layer, "projected", False)]
    plain = {weight for layer in layers for weight in layer_weights(layer)}
    decayed = [p for p in group["params"] if p in plain]
    spared = [p for p in group["params"] if p not in plain]
    if not decayed:
        group["weight_decay"] = 0.0
    elif spared:
        group["params"] = decayed
        optimizer.add_param_group({**group, "params": spared, "weight_decay": 0.0})


def use_fused(optimizer: Optimizer) -> None:
    """Lets an Adam that has not stepped yet use torch's fused kernel, if nobody chose otherwise.

    On a CPU torch's Adam loops over the parameters in Python, a dozen operations for each; weight
    norm has two for each weight. The fused kernel is the same rule in one call: for the small
    networks of PPO and DQN that is a tenth of an update, plain or normalised.

    A choice is ``optimizer_kwargs`` with ``fused``, ``foreach`` or ``differentiable``. Optimizers
    of other types, subclasses of Adam among them, stay as they are. What a fused Adam computes
    differs from the loop's in the last digits.
    """
    if type(optimizer) in (Adam, AdamW):
        for options in (optimizer.defaults, *optimizer.param_groups):
            if options["fused"] is options["foreach"] is None and not options["differentiable"]:
                options["fused"] = True
