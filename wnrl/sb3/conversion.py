"""How the networks of a policy get their norm: a value, which their parts remember."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from wnrl.nn import convert
from wnrl.norms import NORMS


def output_layers(net: nn.Module, heads: Iterable[str]) -> list[str]:
    """Return the name of the last linear layer in each of the submodules ``heads`` of ``net``.

    A name that ``net`` does not have is passed over: ``log_std`` is no layer under gSDE.
    """
    parts = dict(net.named_modules())
    names: list[str] = []
    for head in heads:
        inside = parts[head].named_modules(prefix=head) if head in parts else ()
        names += [name for name, part in inside if isinstance(part, nn.Linear)][-1:]
    return names


@dataclass(frozen=True)
class Conversion:
    """From a plain network of SB3 to one with a norm, in place."""

    norm: str
    """A key of ``NORMS``."""
    norm_kwargs: Mapping[str, Any]
    """Options of the norm."""
    norm_heads: bool
    """Whether output layers take the norm too, if it reparametrises layers."""
    activations: tuple[type[nn.Module], ...] = ()
    """Classes of nonlinearities beside torch's own."""
    placement: str = "pre"
    """Whether normalizers stand in front of the nonlinearity or behind it (post)."""

    def apply(self, net: nn.Module, heads: list[str]) -> list[str]:
        """Give ``net`` the norm; ``heads`` are its output layers. Return what was converted."""
        converted = self.convert(net, heads)
        if NORMS[self.norm].reparametrizes and self.norm_heads:
            self.reparametrize(net, heads)
        return converted

    def convert(self, net: nn.Module, skip: list[str]) -> list[str]:
        """Give all layers of ``net`` but those in ``skip`` the norm, and return their names."""
        return convert(
            net,
            self.norm,
            skip=skip,
            placement=self.placement,
            norm_kwargs=self.norm_kwargs,
            activations=self.activations,
        )

    def reparametrize(self, net: nn.Module, names: Iterable[str]) -> None:
        """Replace plain layers of ``net`` by those of the norm, with no normalizer behind."""
        choice = NORMS[self.norm]
        options = {k: v for k, v in self.norm_kwargs.items() if k in choice.layer_options}
        for name in names:
            parent, _, key = name.rpartition(".")
            layer = net.get_submodule(name)
            if type(layer) in choice.layers:
                new = choice.layers[type(layer)].from_plain(layer, **options)
                setattr(net.get_submodule(parent), key, new)
