"""From a plain network to a normalized one, in place."""

import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from typing import Any

from torch import nn

from wnrl.errors import UsageError, check_choice, check_positive
from wnrl.nn.base import WeightNormed
from wnrl.nn.normalizers import Normalized, check_momentum
from wnrl.nn.plain import HOOKS
from wnrl.nn.projection import mark_projected, project_
from wnrl.nn.sites import (
    N_SPATIAL,
    RECURRENT,
    WEIGHTED,
    LayerSite,
    check_values,
    hidden_sites,
    is_nonlinear,
    layer_sites,
    runs_in_order,
)
from wnrl.norms import NORMS, Norm

ORIGINS: dict[type[nn.Module], type[nn.Module]] = {
    ours: plain for norm in NORMS.values() for plain, ours in norm.layers.items()
}
"""From the layers that take the place of plain ones back to those."""
WORDS = ("scale",)
"""Options of norms that are no numbers."""


@contextmanager
def naming(site: LayerSite) -> Iterator[None]:
    """Puts the name of ``site`` in front of a UsageError."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{site.name}: {error}") from error


def check_options(norm: str, choice: Norm, options: Mapping[str, Any]) -> None:
    """Raises UsageError for an option that ``norm`` does not have, or that makes no sense."""
    allowed = tuple(dict.fromkeys(choice.options + choice.layer_options))
    for name in options:
        if name not in allowed:
            known = ", ".join(allowed) or "nothing"
            raise UsageError(f"norm_kwargs for {norm!r} may hold {known}; got {name!r}")
        if name not in WORDS and not isinstance(options[name], Real | None):
            raise UsageError(f"{name} must be a number, got {options[name]!r}")
    if "eps" in options:
        check_positive(eps=options["eps"])
    if "momentum" in options:
        check_momentum(options["momentum"])


def check_replaceable(module: nn.Module, found: list[LayerSite], choice: Norm) -> None:
    """Refuses to lose hooks, and to normalise a weight in one layer and not in another."""
    places = [site for site in found if type(site.layer) in choice.layers]
    for site in places:
        if any(getattr(site.layer, kind) for kind in HOOKS):
            raise UsageError(f"{site.name} has hooks that conversion would lose; remove them first")
    if not any(issubclass(layer, WeightNormed) for layer in choice.layers.values()):
        return
    ours = {id(site.layer) for site in places}
    names: dict[int, list[str]] = {}
    plain: set[int] = set()
    for path, part in module.named_modules():
        for name, parameter in part.named_parameters(recurse=False):
            if parameter.dim() > 1:
                names.setdefault(id(parameter), []).append(f"{path}.{name}")
                plain |= set() if id(part) in ours else {id(parameter)}
    for key in plain:
        if len(names[key]) > 1 and any(id(p) == key for s in places for p in s.layer.parameters()):
            raise UsageError(
                f"{' and '.join(names[key])} are one parameter, and only a part of its layers can "
                "be converted: skip them all"
            )


def check_untouched(
    found: list[LayerSite], choice: Norm, placement: str, options: Mapping[str, Any]
) -> None:
    """Refuses a second norm where the first one stands, or the same with another option.

    A weight has one parametrisation, and one normalizer stands behind a layer; one of each may be
    combined (``weight`` after ``batch``). What has nothing to do for this norm is no matter.

    Raises:
        UsageError: a layer or normalizer that this call would leave as another one made it.
    """
    hidden = {site.name for site in hidden_sites(found)}
    for site in found:
        with naming(site):
            if isinstance(site.layer, Normalized):
                _check_normalizer(site.layer, choice, placement, options)
            else:
                _check_layer(site, choice, options, hidden=site.name in hidden)


def _check_normalizer(
    part: Normalized, choice: Norm, placement: str, options: Mapping[str, Any]
) -> None:
    kind = type(part.norm).__name__
    stands = "post" if is_nonlinear(part.layer) else "pre"
    if choice.projected and not getattr(part.layer, "projected", False):
        raise UsageError(f'has a {kind} already: convert to "projected" before')
    if choice.normalizers is None:
        return
    # A partial of a class stands for that class.
    if type(part.norm) not in [getattr(made_by, "func", made_by) for made_by in choice.normalizers]:
        raise UsageError(f"has a {kind} already, and can have no second normalizer")
    if stands != placement:
        raise UsageError(f"has a {kind} already, with placement {stands!r}, not {placement!r}")
    _check_same(part.norm, {name: options[name] for name in choice.options if name in options})


def _check_layer(site: LayerSite, choice: Norm, options: Mapping[str, Any], hidden: bool) -> None:
    kind = type(site.layer)
    origin = ORIGINS.get(kind)
    if getattr(site.layer, "projected", False) and kind in choice.layers:
        raise UsageError("is projected already, and its weight can have no second norm")
    if origin is None:
        return
    reached = hidden or issubclass(origin, RECURRENT)
    ours = choice.layers.get(origin)
    if (choice.projected and reached) or ours not in (None, kind):
        raise UsageError(f"is a {kind.__name__} already, and its weight can have no second norm")
    if ours is kind:
        names = [name for name in choice.layer_options if name in options]
        _check_same(site.layer, {name: options[name] for name in names})


def _check_same(part: nn.Module, options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        if getattr(part, name) != value:
            raise UsageError(
                f"is a {type(part).__name__} with {name}={getattr(part, name)!r} already, "
                f"got {name}={value!r}"
            )


PLACEMENTS = ("pre", "post")
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
    included. Normalizers attach to *hidden* layers alone: a linear layer or convolution directly
    followed by a nonlinearity in an ``nn.Sequential``, or across the borders of Sequentials inside
    of each other; subclasses with a ``forward`` of their own may run in any order and do not count.
    A head with a squashing nonlinearity behind it looks like a hidden layer: name it in ``skip``.

    Names and indices stay as they were, and so do the keys of all that is not converted. A
    normalizer stands under the name of what it follows: ``0.weight`` and ``0.bias`` become
    ``0.layer.weight`` and, where the normalizer takes over the bias of its layer, ``0.norm.bias``;
    weight norm alone turns ``0.weight`` into ``0.weight_g`` and ``0.weight_v``. Calling it again
    changes nothing; another norm of the same kind, or other options, are refused where one
    stands already, not for what is still plain. Make optimizers afterwards: parameters are new.

    Args:
        module: what to convert; a container, since a layer cannot be replaced from inside.
        norm: a key of ``NORMS``.
        skip: names of layers, or of parts with all that is in them, to leave alone.
        placement: the normalizer goes ``"pre"`` or ``"post"`` the nonlinearity.
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
    if type(module) in choice.layers or (choice.normalizers and type(module) in N_SPATIAL):
        raise UsageError(
            f"module must be a container of layers: {type(module).__name__} cannot be replaced in "
            f"place, put it in an nn.Sequential or use {type(module).__name__}'s own counterpart"
        )
    found = layer_sites(module, skip)
    if norm == "none":
        return []
    check_values(module)
    check_replaceable(module, found, choice)
    check_untouched(found, choice, placement, chosen)
    hidden = hidden_sites(found, placement)
    # All that can fail comes before the first change.
    counterparts = _counterparts(found, choice, chosen)
    normalizers = _normalizers(hidden, choice, chosen) if choice.normalizers else {}
    done = _attach_normalizers(hidden, normalizers, counterparts, choice, placement)
    done |= _replace_layers(layer_sites(module), counterparts)
    if choice.projected:
        done |= _project_rows(module, found)
    _warn_if_nothing_was_found(norm, choice, module, found)
    return _in_order(module, done)


def _project_rows(module: nn.Module, found: list[LayerSite]) -> set[str]:
    recurrent = [site for site in found if isinstance(site.layer, RECURRENT)]
    marked = {site.name for site in hidden_sites(found) + recurrent if mark_projected(site.layer)}
    if marked:
        project_(module)
    return marked


def _warn_if_nothing_was_found(
    norm: str, choice: Norm, module: nn.Module, found: list[LayerSite]
) -> None:
    if (choice.normalizers or choice.projected) and not _is_normalised(module, choice):
        names = [site.name for site in found if type(site.layer) in N_SPATIAL]
        if names:
            warnings.warn(
                f"norm {norm!r} found no hidden layer: none of {', '.join(names)} is directly "
                "followed by a nonlinearity (a module, not a function) in an nn.Sequential",
                stacklevel=3,
            )


def _is_normalised(module: nn.Module, choice: Norm) -> bool:
    """Whether ``module`` has a normalizer, a normalised recurrence or a projected layer."""
    ours = () if nn.Linear in choice.layers else tuple(choice.layers.values())
    return any(
        isinstance(part, Normalized) or type(part) in ours or getattr(part, "projected", False)
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
    found = layer_sites(module, skip)
    if norm == "none":
        return []
    heads = _is_normalised(module, choice)
    plain = {site.name for site in found if _left_plain(site, choice, heads)}
    return _in_order(module, plain)


def _left_plain(site: LayerSite, choice: Norm, heads: bool) -> bool:
    """Whether ``site`` is to be reported; ``heads`` says that what looks like a head is one."""
    layer = site.layer
    touched = type(layer) in choice.layers.values() or getattr(layer, "projected", False)
    if nn.Linear in choice.layers and not touched:
        return isinstance(layer, (*WEIGHTED, *EMBEDDINGS))
    if type(layer) not in N_SPATIAL or not (choice.normalizers or choice.projected):
        return isinstance(layer, WEIGHTED) and not touched
    if isinstance(site.parent, Normalized) or getattr(layer, "projected", False):
        return False
    if isinstance(site.parent, nn.Sequential) and not runs_in_order(site.parent):
        return True  # what it stands in front of is not known
    after = site.following
    if after is None or not heads:
        return not heads
    return not (isinstance(after.layer, Normalized) and is_nonlinear(after.layer.layer))


def _counterparts(found: list[LayerSite], choice: Norm, options: dict[str, Any]) -> dict[int, Any]:
    """What takes the place of each layer, by its id; what was tied stays so."""
    ours = {name: value for name, value in options.items() if name in choice.layer_options}
    made: dict[int, Any] = {}
    pairs: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}
    for site in found:
        layer = site.layer
        if type(layer) not in choice.layers or id(layer) in made:
            continue
        with naming(site):
            counterpart = choice.layers[type(layer)].from_plain(layer, **ours)
        made[id(layer)] = counterpart
        for name in getattr(counterpart, "pairs", ()):
            pair = pairs.setdefault(id(getattr(layer, name)), counterpart.pair(name))
            for suffix, parameter in zip(("_v", "_g"), pair, strict=True):
                setattr(counterpart, name + suffix, parameter)
    return made


def _normalizers(hidden: list[LayerSite], choice: Norm, options: dict[str, Any]) -> dict[str, Any]:
    """A normalizer for each of the places, by its name."""
    assert choice.normalizers is not None
    ours = {name: value for name, value in options.items() if name in choice.options}
    made: dict[str, Any] = {}
    for site in hidden:
        layer: Any = site.layer
        n_spatial = N_SPATIAL[type(layer)]
        features = layer.out_channels if n_spatial else layer.out_features
        weight = next(layer.parameters())
        with naming(site):
            norm = choice.normalizers[n_spatial](features, **ours)
        made[site.name] = norm.to(weight.device, weight.dtype)
    return made


def _attach_normalizers(
    hidden: list[LayerSite],
    normalizers: Mapping[str, Any],
    counterparts: Mapping[int, Any],
    choice: Norm,
    placement: str,
) -> set[str]:
    attached: dict[tuple[int, int], Normalized] = {}
    placed = [site for site in hidden if site.name in normalizers]
    for site in placed:
        target = site if placement == "pre" else site.following
        assert target is not None
        pair = (id(site.layer), id(target.layer))
        if pair not in attached:
            norm: Any = normalizers[site.name]
            layer: Any = counterparts.get(id(site.layer), site.layer)
            held = layer if placement == "pre" else target.layer
            attached[pair] = Normalized(
                held, norm, features_last=not N_SPATIAL[type(site.layer)]
            ).train(target.layer.training)
            if placement == "pre" and choice.absorbs_bias and layer.bias is not None:
                norm.bias, layer.bias = layer.bias, None
        setattr(target.parent, target.key, attached[pair])
    return {site.name for site in placed}


def _replace_layers(found: list[LayerSite], counterparts: Mapping[int, Any]) -> set[str]:
    """Puts counterparts wherever the layers still stand."""
    places = [site for site in found if id(site.layer) in counterparts]
    for site in places:
        setattr(site.parent, site.key, counterparts[id(site.layer)])
    return {site.name.removesuffix(".layer") for site in places}
