"""How the networks of a policy get their norm: a value, which their parts remember."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from wnrl.nn import convert


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

    def apply(self, net: nn.Module, heads: Iterable[str]) -> None:
        """Give ``net`` the norm; ``heads`` are its output layers, which get no normalizer."""
        self.convert(net, skip=heads)
        if self.norm_heads:
            self.convert(net, hidden=())

    def convert(self, net: nn.Module, **where: Any) -> None:
        """Give layers of ``net`` the norm; ``where`` is ``skip`` and ``hidden`` of the function."""
        options: dict[str, Any] = {"placement": self.placement, "norm_kwargs": self.norm_kwargs}
        convert(net, self.norm, activations=self.activations, **options, **where)
