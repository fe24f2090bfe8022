"""What a policy of SB3 consists of."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def is_target(name: str) -> bool:
    """Whether the part of that name is a target network, as SB3 names them."""
    return name.endswith("_target")


def trained_parts(module: nn.Module) -> nn.Module:
    """The parts of ``module`` that an optimizer trains, under their names: all but targets."""
    trained = nn.Module()
    for name, child in module.named_children():
        if not is_target(name):
            trained.add_module(name, child)
    for name, parameter in module.named_parameters(recurse=False):
        trained.register_parameter(name, parameter)
    return trained


def output_layers(net: nn.Module, heads: Iterable[str]) -> list[str]:
    """The name of the last linear layer in each of the submodules ``heads`` that ``net`` has."""
    parts = dict(net.named_modules())
    found = []
    for head in heads:
        inside = parts[head].named_modules(prefix=head) if head in parts else ()
        layers = [name for name, part in inside if isinstance(part, nn.Linear)]
        found += layers[-1:]
    return found


def frozen_layers(module: nn.Module) -> set[int]:
    """The identities of the layers whose own parameters are all kept from training."""
    own = {id(part): list(part.parameters(recurse=False)) for part in module.modules()}
    return {key for key, ps in own.items() if ps and not any(p.requires_grad for p in ps)}


def drop_graphs(policy: nn.Module) -> None:
    """Detaches what the last update left in SB3's distributions: no copy can have its graph."""
    for part in policy.modules():
        distribution = getattr(part, "action_dist", None)
        for name, value in vars(distribution).items() if distribution is not None else ():
            if isinstance(value, Tensor):
                setattr(distribution, name, value.detach())
            elif isinstance(value, torch.distributions.Distribution):
                setattr(distribution, name, None)  # the next forward makes it anew
