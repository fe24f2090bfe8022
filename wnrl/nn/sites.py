"""Where the layers of a network stand, and what runs behind each of them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import nn
from torch.nn.modules import activation
from torch.nn.modules.lazy import LazyModuleMixin

from wnrl.errors import UsageError
from wnrl.nn.layers import MaskedLinear

PLAIN: dict[type[nn.Module], int] = {nn.Linear: 0, MaskedLinear: 0} | {
    getattr(nn, f"{kind}{axes}d"): axes for kind in ("Conv", "ConvTranspose") for axes in (1, 2, 3)
}
"""The feed-forward layers that a normalizer can stand behind, and the spatial axes of each."""
RECURRENT = (nn.RNNBase, nn.RNNCellBase)
WEIGHTED = (*PLAIN, *RECURRENT, nn.Bilinear, nn.MultiheadAttention)
"""torch's layers with a weight matrix, but for embeddings."""
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_OF_SEVERAL = ("GLU", "LogSoftmax", "MultiheadAttention", "Softmax", "Softmax2d", "Softmin")
NONLINEARITIES = tuple(getattr(nn, n) for n in activation.__all__ if n not in _OF_SEVERAL)
"""torch's nonlinearities of one number."""


def runs_in_order(module: nn.Module) -> bool:
    """Whether ``module`` is an ``nn.Sequential`` that does what its name says."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def n_spatial(layer: nn.Module) -> int | None:
    """Return the spatial axes of a feed-forward layer, plain or one with a norm's weight.

    Layers of a norm are told by their ``plain_type``; all other layers give None.
    """
    return PLAIN.get(getattr(type(layer), "plain_type", type(layer)))


def has_weight(layer: nn.Module, embeddings: bool) -> bool:
    """Return whether ``layer`` has a weight matrix of its own, with embeddings or without.

    In a class of another's, what has "weight" in its name is one, and in a layer that consists of
    no others whatever has several rows and columns.
    """
    if isinstance(layer, (*EMBEDDINGS, nn.LayerNorm, nn.RMSNorm)):
        return embeddings and isinstance(layer, EMBEDDINGS)
    if isinstance(layer, WEIGHTED) or hasattr(type(layer), "plain_type"):  # a norm's layer
        return isinstance(layer, WEIGHTED)
    own = layer._parameters.items()
    named = [p for name, p in own if p is not None and ("weight" in name or not layer._modules)]
    return any(sum(length > 1 for length in parameter.shape) > 1 for parameter in named)


@dataclass(frozen=True, eq=False)
class LayerSite:
    """One place that a layer has in a network; a shared layer has several."""

    name: str
    parent: nn.Module
    key: str
    layer: nn.Module
    following: "LayerSite | None" = None
    """What runs next, where an ``nn.Sequential`` says so; it has no ``following`` of its own."""
    hidden: bool = False
    """Whether this is a feed-forward layer directly followed by a nonlinearity."""

    @property
    def place(self) -> tuple[int, str]:
        """The same for every name under which a shared container is reached."""
        return id(self.parent), self.key


def layer_sites(
    module: nn.Module, skip: Iterable[str] = (), activations: Iterable[type[nn.Module]] = ()
) -> list[LayerSite]:
    """Return all places in ``module`` but those that ``skip`` names, with what runs next.

    They are in the order of ``module.named_modules()``.

    Children of an ``nn.Sequential`` run one after the other, those of Sequentials inside of it
    too. What follows a container with a ``forward`` of its own, or what follows what in it, is not
    known: a subclass of ``nn.Sequential`` may run its children in another order.

    Raises:
        UsageError: a name that no submodule has.
    """
    left_alone = skipped_modules(module, skip)
    parts = dict(module.named_modules(remove_duplicate=False))
    following: dict[str, str] = {}
    for name, part in parts.items():
        if runs_in_order(part):
            following |= pairwise(_in_turn(name, part))
    nonlinearities = (*NONLINEARITIES, *activations)

    def site(name: str, after: LayerSite | None = None) -> LayerSite:
        path, _, key = name.rpartition(".")
        hidden = after is not None and isinstance(after.layer, nonlinearities)
        layer = parts[name]
        return LayerSite(
            name, parts[path], key, layer, after, hidden and n_spatial(layer) is not None
        )

    names = [name for name, part in parts.items() if name and id(part) not in left_alone]
    return [site(name, site(following[name]) if name in following else None) for name in names]


def _in_turn(path: str, sequence: nn.Module) -> Iterator[str]:
    """The names of what runs in ``sequence``, in order."""
    for key, child in sequence._modules.items():
        name = f"{path}.{key}" if path else key
        if child is not None and runs_in_order(child):
            yield from _in_turn(name, child)
        elif child is not None:
            yield name


def check_values(module: nn.Module) -> None:
    """Raises UsageError for a layer whose sizes are not known yet."""
    for name, part in module.named_modules():
        if isinstance(part, LazyModuleMixin) and part.has_uninitialized_params():  # type: ignore[misc]
            raise UsageError(f"{name} is lazy and has no weight yet: call the network once before")


def skipped_modules(module: nn.Module, skip: Iterable[str]) -> set[int]:
    """The ids of the modules that ``skip`` names, of what is in them and wherever that is shared.

    Raises:
        UsageError: a name that no submodule has.
    """
    parts = dict(module.named_modules(remove_duplicate=False))
    names = tuple(skip)  # which may be an iterator
    for name in names:
        if name not in parts:
            raise UsageError(f"skip names {name!r}, which is no submodule of the module")
    return {id(part) for name in names for part in parts[name].modules()}
