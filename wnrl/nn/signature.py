"""The constructor arguments of layers that hand most of them on to torch's own."""

import inspect

from torch import nn


def show_arguments(layer: type[nn.Module]) -> None:
    """Gives ``layer`` the signature of its ``plain_type`` and, by name, the options of its bases.

    ``help``, editors and ``torch.nn.utils.skip_init`` read it. A class that derives from a layer
    and has a constructor of its own shows that one.
    """
    bases = layer.__mro__[: layer.__mro__.index(nn.Module)]
    constructors = [base for base in bases if "__init__" in vars(base)]
    typed = [base for base in bases if "plain_type" in vars(base)]
    if not typed or bases.index(constructors[0]) < bases.index(typed[0]):
        parameters = list(_parameters(constructors[0]).values())
    else:
        options: dict[str, inspect.Parameter] = {}
        for base in constructors:
            options |= {n: p for n, p in _parameters(base).items() if p.kind is p.KEYWORD_ONLY}
        parameters = [*_torch_parameters(typed[0]), *options.values()]
    layer.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]


def _torch_parameters(layer: type[nn.Module]) -> list[inspect.Parameter]:
    plain: type[nn.Module] = vars(layer)["plain_type"]
    if not issubclass(plain, nn.RNNBase):
        return list(_parameters(plain).values())
    shown = _parameters(nn.RNNBase)  # nn.LSTM itself shows *args
    del shown["mode"]
    if plain is nn.GRU:
        del shown["proj_size"]
    return list(shown.values())


def _parameters(owner: type) -> dict[str, inspect.Parameter]:
    """Those of the constructor, without ``self``."""
    found = dict(inspect.signature(owner.__init__).parameters)  # type: ignore[misc]
    found.pop("self")
    return found
