"""From a plain network to a normalised one, in place."""

import warnings
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import nn

from wnrl.errors import UsageError, check_choice
from wnrl.nn.convertible import (
    check_options,
    check_replaceable,
    check_untouched,
    check_values,
    naming,
)
from wnrl.nn.normalised import Normalised
from wnrl.nn.projection import mark_projected, project_
from wnrl.nn.slots import (
    N_SPATIAL,
    PLAIN,
    RECURRENT,
    Slot,
    hidden_slots,
    is_nonlinear,
    runs_in_order,
    slots,
)
from wnrl.norms import NORMS, Norm

PLACEMENTS = ("pre", "post")
WEIGHTED = (*PLAIN, *RECURRENT, nn.Bilinear, nn.MultiheadAttention)
"""torch's layers with a weight matrix, but for embeddings."""
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


def convert(
    module: nn.Module,
    norm: str = "weight",
    *,
    skip: Iterable[str] = (),
    placement: str = "pre",
    norm_kwargs: Mapping[str, Any] | None = None,
) -> list[str]:
    """Turns the layers of a plain network, in place, into those of ``norm``.

    Reparametrisations (``weight``, ``spectral``) replace every layer they know, output heads
    included. Normalisers attach to *hidden* layers alone: a linear layer or convolution directly
    followed by a nonlinearity in an ``nn.Sequential``, or across the borders of Sequentials inside
    of each other; subclasses with a ``forward`` of their own may run in any order and do not count.
    A head with a squashing nonlinearity behind it looks like a hidden layer: name it in ``skip``.

    Names and indices stay as they were, and so do the keys of all that is not converted. A
    normaliser stands under the name of what it follows: ``0.weight`` and ``0.bias`` become
    ``0.layer.weight`` and, where the normaliser takes over the bias of its layer, ``0.norm.bias``;
    weight norm alone turns ``0.weight`` into ``0.weight_g`` and ``0.weight_v``. Calling it again
    changes nothing; another norm of the same kind, or other options, are refused where one
    stands already, not for what is still plain. Make optimizers afterwards: parameters are new.

    Args:
        module: what to convert; a container, since a layer cannot be replaced from inside.
        norm: a key of ``NORMS``.
        skip: names of layers, or of parts with all that is in them, to leave alone.
        placement: the normaliser goes ``"pre"`` or ``"post"`` the nonlinearity.
        norm_kwargs: options of the norm, such as ``momentum`` or ``v_init_std``: those in
            ``options`` and ``layer_options`` of ``NORMS[norm]``.

    Returns:
        The names of the converted layers, in the order of ``module.named_modules()``.

    Raises:
        UsageError: a word, a name or an option that does not exist; ``module`` is none, or itself
            a layer; a layer has hooks that would be lost, another norm already or no values yet; a
            weight is tied to one that stays plain; a layer's weight is one that the norm cannot
            take. ``module`` is as it was then.

    Warns:
        UserWarning: a norm of hidden layers found none, though there are layers.
    """
    choice = NORMS[check_choice("norm", norm, NORMS)]
    check_choice("placement", placement, PLACEMENTS)
    chosen = dict(norm_kwargs or {})
    check_options(norm, choice, chosen)
    if type(module) in choice.layers or (choice.normalisers and type(module) in N_SPATIAL):
        raise UsageError(
            f"module must be a container of layers: {type(module).__name__} cannot be replaced in "
            f"place, put it in an nn.Sequential or use {type(module).__name__}'s own counterpart"
        )
    found = slots(module, skip)
    if norm == "none":
        return []
    check_values(module)
    check_replaceable(module, found, choice)
    check_untouched(found, choice, placement, chosen)
    hidden = hidden_slots(found, placement)
    # All that can fail comes before the first change.
    counterparts = _counterparts(found, choice, chosen)
    normalisers = _normalisers(hidden, choice, chosen) if choice.normalisers else {}
    done = _attach_normalisers(hidden, normalisers, counterparts, choice, placement)
    done |= _replace_layers(slots(module), counterparts)
    if choice.projected:
        done |= _project_rows(module, found)
    _warn_if_nothing_was_found(norm, choice, module, found)
    return _in_order(module, done)


def _project_rows(module: nn.Module, found: list[Slot]) -> set[str]:
    recurrent = [slot for slot in found if isinstance(slot.layer, RECURRENT)]
    marked = {slot.name for slot in hidden_slots(found) + recurrent if mark_projected(slot.layer)}
    if marked:
        project_(module)
    return marked


def _warn_if_nothing_was_found(
    norm: str, choice: Norm, module: nn.Module, found: list[Slot]
) -> None:
    if (choice.normalisers or choice.projected) and not _is_normalised(module, choice):
        names = [slot.name for slot in found if type(slot.layer) in N_SPATIAL]
        if names:
            warnings.warn(
                f"norm {norm!r} found no hidden layer: none of {', '.join(names)} is directly "
                "followed by a nonlinearity (a module, not a function) in an nn.Sequential",
                stacklevel=3,
            )


def _is_normalised(module: nn.Module, choice: Norm) -> bool:
    """Whether ``module`` has a normaliser, a normalised recurrence or a projected layer."""
    ours = () if nn.Linear in choice.layers else tuple(choice.layers.values())
    return any(
        isinstance(part, Normalised) or type(part) in ours or getattr(part, "projected", False)
        for part in module.modules()
    )


def _in_order(module: nn.Module, names: Collection[str]) -> list[str]:
    return [name for name, _ in module.named_modules(remove_duplicate=False) if name in names]


def plain_parts(module: nn.Module, norm: str, *, skip: Iterable[str] = ()) -> list[str]:
    """The names of the layers that ``norm`` could not be applied to: built plainly, to be reported.

    For ``weight`` and ``spectral`` that is every layer with a weight matrix that still is a plain
    one. For norms of hidden layers, it is recurrent layers without a version of their own and
    feed-forward layers inside a network whose place was not recognised; output heads, which those
    norms leave alone by definition, are not listed. A layer at the end of its ``nn.Sequential``, or
    in none, is taken for a head, unless no hidden layer was recognised at all: then every layer is
    listed. For ``weight_mean`` it is both: what weight norm did not reach, and what it did reach
    but without the mean.

    Args:
        module: a network that ``convert(module, norm)`` has seen.
        norm: a key of ``NORMS``.
        skip: what was skipped, which is not listed either.

    Raises:
        UsageError: ``module`` is no module, or a word or a name does not exist.
    """
    choice = NORMS[check_choice("norm", norm, NORMS)]
    found = slots(module, skip)
    if norm == "none":
        return []
    heads = _is_normalised(module, choice)
    plain = {slot.name for slot in found if _left_plain(slot, choice, heads)}
    return _in_order(module, plain)


def _left_plain(slot: Slot, choice: Norm, heads: bool) -> bool:
    """Whether ``slot`` is to be reported; ``heads`` says that what looks like a head is one."""
    layer = slot.layer
    touched = type(layer) in choice.layers.values() or getattr(layer, "projected", False)
    if nn.Linear in choice.layers and not touched:
        return isinstance(layer, (*WEIGHTED, *EMBEDDINGS))
    if type(layer) not in N_SPATIAL or not (choice.normalisers or choice.projected):
        return isinstance(layer, WEIGHTED) and not touched
    if isinstance(slot.parent, Normalised) or getattr(layer, "projected", False):
        return False
    if isinstance(slot.parent, nn.Sequential) and not runs_in_order(slot.parent):
        return True  # what it stands in front of is not known
    after = slot.following
    if after is None or not heads:
        return not heads
    return not (isinstance(after.layer, Normalised) and is_nonlinear(after.layer.layer))


def _counterparts(found: list[Slot], choice: Norm, options: dict[str, Any]) -> dict[int, Any]:
    """What takes the place of each layer, by its id; what was tied stays so."""
    ours = {name: value for name, value in options.items() if name in choice.layer_options}
    made: dict[int, Any] = {}
    pairs: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}
    for slot in found:
        layer = slot.layer
        if type(layer) not in choice.layers or id(layer) in made:
            continue
        with naming(slot):
            counterpart = choice.layers[type(layer)].from_plain(layer, **ours)
        made[id(layer)] = counterpart
        for name in getattr(counterpart, "pairs", ()):
            pair = pairs.setdefault(id(getattr(layer, name)), counterpart.pair(name))
            for suffix, parameter in zip(("_v", "_g"), pair, strict=True):
                setattr(counterpart, name + suffix, parameter)
    return made


def _normalisers(hidden: list[Slot], choice: Norm, options: dict[str, Any]) -> dict[str, Any]:
    """A normaliser for each of the places, by its name."""
    assert choice.normalisers is not None
    ours = {name: value for name, value in options.items() if name in choice.options}
    made: dict[str, Any] = {}
    for slot in hidden:
        layer: Any = slot.layer
        n_spatial = N_SPATIAL[type(layer)]
        features = layer.out_channels if n_spatial else layer.out_features
        weight = next(layer.parameters())
        with naming(slot):
            norm = choice.normalisers[n_spatial](features, **ours)
        made[slot.name] = norm.to(weight.device, weight.dtype)
    return made


def _attach_normalisers(
    hidden: list[Slot],
    normalisers: Mapping[str, Any],
    counterparts: Mapping[int, Any],
    choice: Norm,
    placement: str,
) -> set[str]:
    attached: dict[tuple[int, int], Normalised] = {}
    placed = [slot for slot in hidden if slot.name in normalisers]
    for slot in placed:
        target = slot if placement == "pre" else slot.following
        assert target is not None
        pair = (id(slot.layer), id(target.layer))
        if pair not in attached:
            norm: Any = normalisers[slot.name]
            layer: Any = counterparts.get(id(slot.layer), slot.layer)
            held = layer if placement == "pre" else target.layer
            attached[pair] = Normalised(
                held, norm, features_last=not N_SPATIAL[type(slot.layer)]
            ).train(target.layer.training)
            if placement == "pre" and choice.absorbs_bias and layer.bias is not None:
                norm.bias, layer.bias = layer.bias, None
        setattr(target.parent, target.key, attached[pair])
    return {slot.name for slot in placed}


def _replace_layers(found: list[Slot], counterparts: Mapping[int, Any]) -> set[str]:
    """Puts counterparts wherever the layers still stand."""
    places = [slot for slot in found if id(slot.layer) in counterparts]
    for slot in places:
        setattr(slot.parent, slot.key, counterparts[id(slot.layer)])
    return {slot.name.removesuffix(".layer") for slot in places}
