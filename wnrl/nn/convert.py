"""From a plain network to a normalised one, and back."""

import copy
from collections.abc import Collection

from torch import nn

from wnrl.errors import check_choice
from wnrl.nn.conv import WNConv2d
from wnrl.nn.linear import WNLinear
from wnrl.nn.lstm import WNLSTM
from wnrl.norms import NORMS

WEIGHT_NORMED = {nn.Linear: WNLinear, nn.Conv2d: WNConv2d, nn.LSTM: WNLSTM}
ACTIVATIONS = (nn.Tanh, nn.ReLU, nn.ELU, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Sigmoid, nn.CELU)


def convert(
    module: nn.Module, norm: str = "weight", *, skip: Collection[str] = (), placement: str = "pre"
) -> list[str]:
    """Turns the layers of a plain network, in place, into those of ``norm``.

    Returns:
        The names of the converted layers.
    """
    choice = NORMS[check_choice("norm", norm, NORMS)]
    done: list[str] = []
    for path, parent in list(module.named_modules()):
        children = list(parent.named_children())
        for i, (key, child) in enumerate(children):
            name = f"{path}.{key}" if path else key
            if name in skip:
                continue
            if choice.reparametrised and type(child) in WEIGHT_NORMED:
                setattr(parent, key, WEIGHT_NORMED[type(child)].from_plain(child))
                done.append(name)
            elif choice.normaliser and isinstance(parent, nn.Sequential) and isinstance(
                child, nn.Linear
            ) and i + 1 < len(children) and isinstance(children[i + 1][1], ACTIVATIONS):
                norm_layer = choice.normaliser(child.out_features).to(child.weight.device)
                setattr(parent, key, nn.Sequential(child, norm_layer))
                done.append(name)
    return done


def fold(module: nn.Module) -> nn.Module:
    """A plain torch copy of ``module`` with the same function."""
    module = copy.deepcopy(module)
    for parent in list(module.modules()):
        for key, child in list(parent.named_children()):
            if isinstance(child, tuple(WEIGHT_NORMED.values())):
                setattr(parent, key, child.to_plain())
    return module
