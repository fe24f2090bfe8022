"""From a plain network to a normalized one, in place."""

import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from types import ModuleType
from typing import Annotated, Any

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.optim import Optimizer

from wnrl.arguments import fault
from wnrl.errors import UsageError, as_usage_error
from wnrl.limits import Fraction, NormKey, Positive, one_of
from wnrl.nn.base import Counterpart, WeightNormed, share_as, torch_parameters
from wnrl.nn.functional import transposed_groups
from wnrl.nn.normalizers import Normalized
from wnrl.nn.norms import NORMS, Norm, origin
from wnrl.nn.sites import RECURRENT, LayerSite, check_values, has_weight, layer_sites, n_spatial

Placement = Annotated[str, one_of(("pre", "post"))]
OPTIONS = {"scale": Any, "eps": Positive, "g_rate": Positive, "momentum": Fraction | None}
"""Limits of the options of norms, where they are not any number or None; what scale may be, a word
in our layers, the layer says."""
PARALLEL = ("DistributedDataParallel", "FullyShardedDataParallel")
"""Classes of wrappers that share gradients of the parameters that they have found."""


def convert(
    module: nn.Module,
    norm: NormKey = "weight",
    *,
    skip: Iterable[str] = (),
    placement: Placement = "pre",
    norm_kwargs: Mapping[str, Any] | None = None,
    hidden: Iterable[str] | None = None,
    activations: Iterable[type[nn.Module]] = (),
) -> list[str]:
    """Turn the layers of a plain network, in place, into those of ``norm``.

    Reparametrisations (``weight``, ``spectral``) replace every layer they know, output heads
    included. Normalizers attach to *hidden* layers alone. Say in ``hidden`` which these are; else
    they are guessed: a linear layer or convolution directly followed by a nonlinearity in an
    ``nn.Sequential``, or across the borders of Sequentials inside of each other; subclasses with a
    ``forward`` of their own may run in any order and do not count. A head with a squashing
    nonlinearity behind it looks like a hidden layer: name it in ``skip``.

    Names and indices stay as they were, and so do the keys of all that is not converted. A
    normalizer stands under the name of what it follows: ``0.weight`` and ``0.bias`` become
    ``0.layer.weight`` and, where the normalizer takes over the bias of its layer, ``0.norm.bias``;
    weight norm alone turns ``0.weight`` into ``0.weight_g`` and ``0.weight_v``. Calling it again
    changes nothing; another norm of the same kind, or other options, are refused where one
    stands already, not for what is still plain. Make optimizers afterwards: parameters are new.
    What was set on a layer (``layer.tag = "x"``) is set on what takes its place; what was set on
    a weight is not.

    Args:
        module: what to convert; a container, since a layer cannot be replaced from inside.
        norm: a key of ``NORMS``.
        skip: names of layers, or of parts with all that is in them, to leave alone.
        placement: the normalizer goes ``"pre"`` or ``"post"`` the nonlinearity.
        norm_kwargs: options of the norm, such as ``momentum`` or ``v_init_std``: those in
            ``options`` and ``layer_options`` of ``NORMS[norm]``.
        hidden: names of the hidden linear layers and convolutions; None guesses.
        activations: classes of nonlinearities beside torch's own, by which it guesses.

    Returns:
        The names of the converted layers, in the order of ``module.named_modules()``.

    Raises:
        UsageError: a word, a name or an option that does not exist; ``module`` is none, or itself
            a layer, or has an optimizer of what would change, or a list of it; a layer has hooks,
            methods, buffers or modules of its own that would be lost, other parameters than
            torch's, another norm already or no values yet; a weight is tied to one that stays plain
            or has other output units, or is one that the norm cannot take. ``module`` is as it was
            then.

    Warns:
        UserWarning: layers with a weight were left alone; it names them all. ``plain_parts`` does
            too. Of recurrent layers, which a norm may not be for, ``plain_parts`` alone tells.
    """
    choice = NORMS[norm]
    chosen = dict(norm_kwargs or {})
    check_options(norm, chosen)
    for_layers = {name: value for name, value in chosen.items() if name in choice.layer_options}
    for_normalizers = {name: value for name, value in chosen.items() if name in choice.options}
    skip = tuple(skip)  # which may be an iterator
    sites = layer_sites(module, skip, activations)
    if norm == "none":
        return []
    check_values(module)
    if not module._modules and has_weight(module, embeddings=True):
        raise UsageError(
            f"module must be a container of layers: {type(module).__name__} cannot be replaced in "
            "place, put it in an nn.Sequential"
        )
    places = _hidden_sites(sites, placement, hidden)
    marked = [s for s in sites if choice.mark and (s in places or isinstance(s.layer, RECURRENT))]
    # All that can fail comes before the first change.
    _check_ties(module, choice, sites)
    for site in sites:
        with as_usage_error(site.name, UsageError, say=str):
            if site in places or type(site.layer) in choice.layers:
                _check_types(site.layer)
            # A second norm is refused where the first one stands, or the same with other options. A
            # weight has one parametrisation, and one normalizer stands behind a layer; one of each
            # may be combined (weight after batch). What has nothing to do is no matter.
            if isinstance(site.layer, Normalized):
                _check_normalizer(site.layer, choice, placement, for_normalizers)
            else:
                _check_layer(site.layer, choice, for_layers, site in marked)
    counterparts = _counterparts(sites, choice, for_layers)
    normalized = _normalized(places, counterparts, choice, for_normalizers)
    replaced = [site for site in sites if site.layer in counterparts]
    changed = [site.layer for site in (*replaced, *normalized, *marked)]
    moved = {site.layer: site.name for site in (*replaced, *(places[s] for s in normalized))}
    _check_owners(module, choice, [*counterparts.values(), *normalized.values()], changed, moved)
    done = {site.name.removesuffix(".layer") for site in (*replaced, *normalized)}
    for site in replaced:
        setattr(site.parent, site.key, counterparts[site.layer])
    for site, both in normalized.items():
        if placement == "pre" and choice.absorbs_bias and both.layer.bias is not None:
            both.norm.bias, both.layer.bias = both.layer.bias, None
        setattr(places[site].parent, places[site].key, both)
    if choice.mark:
        done |= {site.name for site in marked if choice.mark(site.layer)}
        if choice.after_step and done:
            choice.after_step(module)
    _leave_fast_paths(module)
    _warn_of_plain_layers(module, norm, skip, told=hidden is not None)
    return [site.name for site in sites if site.name in done]


def _hidden_sites(
    found: list[LayerSite], placement: str, names: Iterable[str] | None
) -> dict[LayerSite, LayerSite]:
    """Return the places of hidden layers, and for each the place that a normalizer of it takes.

    A shared layer is hidden if it is so wherever it stands.

    Args:
        found: from ``layer_sites``.
        placement: behind a nonlinearity, ``"post"``, there must be room: it is not skipped, and
            follows the same layer wherever it stands.
        names: of the hidden layers; None takes those directly followed by a nonlinearity.

    Raises:
        UsageError: a name of no linear layer or convolution, or of one without room for
            ``placement``.
    """
    told = {site.name for site in found if site.hidden} if names is None else set(names)
    uses = Counter(site.place for site in found)
    pairs = Counter((id(s.layer), s.following.place) for s in found if s.following is not None)

    def room(site: LayerSite) -> LayerSite | None:
        if site.name not in told:
            return None
        if placement == "pre":
            return site
        after = site.following if site.hidden else None
        alone = after is not None and pairs[id(site.layer), after.place] == uses[after.place]
        return after if alone else None

    rooms = {site: room(site) for site in found}
    elsewhere = {id(site.layer) for site, place in rooms.items() if place is None}
    hidden = {s: p for s, p in rooms.items() if p is not None and id(s.layer) not in elsewhere}
    reached = {site.name for site in hidden if n_spatial(site.layer) is not None}
    reached |= {site.name for site in found if isinstance(site.layer, Normalized)}
    if names is not None and not told <= reached:
        raise UsageError(
            f"hidden names {min(told - reached)!r}, which is no linear layer or convolution with "
            f"room for a normalizer at {placement!r}"
        )
    return hidden


def _leave_fast_paths(module: nn.Module) -> None:
    """Have torch's transformers call converted layers: in evaluation they read raw weights."""
    for part in reversed(list(module.modules())):  # layers before what holds them
        if isinstance(part, nn.TransformerEncoderLayer):
            inner = [part._modules.get(name) for name in ("linear1", "linear2")]
            if any(isinstance(layer, Counterpart | Normalized) for layer in inner):
                part.activation_relu_or_gelu = 0
        elif isinstance(part, nn.TransformerEncoder):
            fast = [getattr(layer, "activation_relu_or_gelu", 1) for layer in part.layers]
            part.use_nested_tensor = part.use_nested_tensor and all(fast)


def _warn_of_plain_layers(module: nn.Module, norm: str, skip: Iterable[str], told: bool) -> None:
    """Name what stayed plain, but for what the caller or the meaning of the norm leaves so."""
    choice = NORMS[norm]
    recurrent = any(issubclass(plain, RECURRENT) for plain in choice.layers)
    left = [
        site
        for site in _left_plain(layer_sites(module, skip), choice)
        if not (told and n_spatial(site.layer) is not None)
        and not (isinstance(site.layer, RECURRENT) and (told or not recurrent))
    ]
    if left:
        hint = "name in skip what is to stay so"
        if not choice.reparametrizes or choice.normalizers:
            hint = (
                "a hidden layer is directly followed by a nonlinearity (a module, not a function) "
                f"in an nn.Sequential, or named in hidden; {hint}"
            )
        if any(is_parametrized(site.layer) for site in left):
            hint = f"remove torch's parametrizations before, or {hint}"
        names = ", ".join(site.name for site in left)
        warnings.warn(f"norm {norm!r} left {names} as they were: {hint}", stacklevel=3)


def plain_parts(module: nn.Module, norm: NormKey, *, skip: Iterable[str] = ()) -> list[str]:
    """Return the names of the layers with a weight that ``norm`` left alone, to be reported.

    For ``weight`` and ``spectral`` that is every layer with a weight matrix that still is a plain
    one. For norms of hidden layers, it is recurrent layers without a version of their own and
    feed-forward layers whose place was not recognised; output heads, which those norms leave alone
    by definition, are not listed. The last layer of an ``nn.Sequential`` is taken for a head if a
    hidden layer in front of it was recognised. For ``weight_mean`` it is both: what weight norm did
    not reach, and what it did reach but without the mean.

    Args:
        module: a network that ``convert(module, norm)`` has seen.
        norm: a key of ``NORMS``.
        skip: what was skipped, which is not listed either.

    Raises:
        UsageError: ``module`` is no module, or a word or a name does not exist.
    """
    choice = NORMS[norm]
    sites = layer_sites(module, skip)
    left = [] if norm == "none" else _left_plain(sites, choice)
    return [site.name for site in left]


def _left_plain(sites: list[LayerSite], choice: Norm) -> list[LayerSite]:
    """Return the sites that are to be reported."""
    behind_hidden = set()  # in the order in which they run
    for site in sites:
        is_hidden = isinstance(site.layer, Normalized) or choice.marked(site.layer)
        if site.following is not None and (is_hidden or site.place in behind_hidden):
            behind_hidden.add(site.following.place)

    def left(site: LayerSite) -> bool:
        layer, after = site.layer, site.following
        reached = choice.reached(layer)
        if choice.reparametrizes and not reached:
            return has_weight(layer, embeddings=True)
        if n_spatial(layer) is None or not (choice.normalizers or choice.mark):
            return has_weight(layer, embeddings=False) and not reached
        if isinstance(site.parent, Normalized) or choice.marked(layer):
            return False
        if after is None:
            return site.place not in behind_hidden
        return not (isinstance(after.layer, Normalized) and n_spatial(after.layer.layer) is None)

    return [site for site in sites if left(site)]


def _check_owners(
    module: nn.Module,
    choice: Norm,
    made: list[nn.Module],
    changed: list[nn.Module],
    moved: Mapping[Any, str],
) -> None:
    """Refuse to leave a part of ``module`` with a layer, or an optimizer, of before.

    Args:
        module: before anything changes.
        choice: the norm.
        made: what will be added.
        changed: the layers that will be replaced, normalized or marked.
        moved: names of the modules whose places will be taken.
    """
    new = set(nn.ModuleList(made).parameters()) - set(module.parameters())
    left = changed if new or choice.after_step is not None else []
    touched = {parameter for layer in left for parameter in layer.parameters()}
    for path, part in module.named_modules():
        kind = type(part).__name__
        if kind in PARALLEL and touched & set(part.parameters()):
            raise UsageError(
                f"{path or 'module'} is a {kind} already, which does not know the parameters that "
                "conversion makes: convert before it is made"
            )
        for name, value in vars(part).items():
            where = f"{path}{'.' * bool(path)}{name}"
            for held in _held(value, set()) if name != "_modules" else ():
                if held in moved:
                    raise UsageError(
                        f"{where} holds {moved[held]} outside of the modules, and would go on with "
                        "what is not trained any more: convert before, or use an nn.ModuleList"
                    )
                groups = held.param_groups if isinstance(held, Optimizer) else []
                if touched & {p for group in groups for p in group["params"]}:
                    raise UsageError(
                        f"module has an optimizer already ({where}), which would not train what "
                        "conversion makes: convert before it is made. Under stable-baselines3 take "
                        "a policy with a norm (WNMlpPolicy) and give it the weights with "
                        "load_weights"
                    )


def _held(value: Any, seen: set[int], depth: int = 5) -> Iterator[Optimizer | nn.Module]:
    """Yield optimizers and modules in a value: in collections, objects and methods of any class."""
    if id(value) in seen or not depth or isinstance(value, Tensor | ModuleType | type):
        return
    seen.add(id(value))
    if isinstance(value, Optimizer | nn.Module):
        yield value
    if isinstance(value, nn.Module):
        return
    held = {**getattr(value, "__dict__", {}), "_modules": None}  # torch.compile's functions have it
    parts = [getattr(value, "__self__", None), *held.values()]
    if isinstance(value, partial):
        parts += [value.func, value.args]
    elif isinstance(value, dict):
        parts += value.values()
    elif isinstance(value, list | tuple | set | frozenset | deque):
        parts += value
    for part in parts:
        yield from _held(part, seen, depth - 1)


def check_options(norm: str, options: Mapping[str, Any]) -> None:
    """Raise UsageError for an option that ``norm`` does not have, or that makes no sense."""
    allowed = dict.fromkeys(NORMS[norm].options + NORMS[norm].layer_options)
    for name, value in options.items():
        if name not in allowed:
            known = ", ".join(allowed) or "nothing"
            raise UsageError(f"norm_kwargs for {norm!r} may hold {known}; got {name!r}")
        if text := fault(name, value, OPTIONS.get(name, float | None)):
            raise UsageError(text)


def _check_types(layer: nn.Module) -> None:
    for parameter in layer.parameters(recurse=False):
        if not parameter.is_floating_point() or parameter.itemsize < 2:
            raise UsageError(
                f"its parameters must be real numbers of 16 bits or more, got {parameter.dtype}"
            )


def _check_ties(module: nn.Module, choice: Norm, sites: list[LayerSite]) -> None:
    """Refuse to convert one of two layers that share a weight, or two whose units are others."""
    if not any(issubclass(layer, WeightNormed) for layer in choice.layers.values()):
        return
    replaced = {site.layer for site in sites if type(site.layer) in choice.layers}
    uses: dict[Tensor, dict[str, int | None]] = {}  # None in a layer that stays
    for path, part in module.named_modules():
        groups = transposed_groups(part) if part in replaced else None
        for name, parameter in part.named_parameters(recurse=False):
            if parameter.dim() > 1:
                uses.setdefault(parameter, {})[f"{path}.{name}"] = groups
    for names in uses.values():
        if len(set(names.values())) > 1:
            raise UsageError(
                f"{' and '.join(names)} are one parameter with different output units, or of which "
                "one stays plain: skip all of its layers, or untie them"
            )


def _check_normalizer(
    part: Normalized, choice: Norm, placement: str, options: Mapping[str, Any]
) -> None:
    kind = type(part.norm).__name__
    if choice.mark and not choice.marked(part.layer):
        raise UsageError(f'has a {kind} already: convert to "projected" before')
    if choice.normalizers is None:
        return
    # A partial of a class stands for that class.
    if type(part.norm) not in [getattr(made_by, "func", made_by) for made_by in choice.normalizers]:
        raise UsageError(f"has a {kind} already, and can have no second normalizer")
    stands = "post" if n_spatial(part.layer) is None else "pre"
    if stands != placement:
        raise UsageError(f"has a {kind} already, with placement {stands!r}, not {placement!r}")
    _check_same(part.norm, options)


def _check_layer(layer: nn.Module, choice: Norm, options: Mapping[str, Any], marked: bool) -> None:
    kind = type(layer)
    if kind in choice.layers and any(norm.marked(layer) for norm in NORMS.values()):
        raise UsageError("is projected already; its weight can have no second norm")
    if (plain := origin(kind)) is not None:
        to_mark = marked or (choice.mark and issubclass(plain, RECURRENT))
        if to_mark or choice.layers.get(plain, kind) is not kind:
            raise UsageError(f"is a {kind.__name__} already; its weight can have no second norm")
        if plain in choice.layers:
            _check_same(layer, options)
    if marked:
        torch_parameters(layer)


def _check_same(part: nn.Module, options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        if getattr(part, name) != value:
            raise UsageError(
                f"is a {type(part).__name__} with {name}={getattr(part, name)!r} already, "
                f"got {name}={value!r}"
            )


def _counterparts(
    sites: list[LayerSite], choice: Norm, options: dict[str, Any]
) -> dict[nn.Module, Any]:
    """Return what takes the place of each layer; what was tied stays so."""
    made: dict[nn.Module, Any] = {}
    first: dict[Tensor, tuple[nn.Parameter, nn.Parameter]] = {}  # v and g of a weight
    for site in sites:
        layer = site.layer
        if type(layer) in choice.layers and layer not in made:
            with as_usage_error(site.name, UsageError, say=str):
                made[layer] = choice.layers[type(layer)].from_plain(layer, **options)
            for name in made[layer].computed if isinstance(made[layer], WeightNormed) else ():
                pair = first.setdefault(getattr(layer, name), made[layer].pair(name))
                for end, parameter in zip(("_v", "_g"), pair, strict=True):
                    setattr(made[layer], name + end, parameter)
    return made


def _normalized(
    places: Mapping[LayerSite, LayerSite],
    counterparts: Mapping[nn.Module, Any],
    choice: Norm,
    options: dict[str, Any],
) -> dict[LayerSite, Any]:
    """Return what will stand with its normalizer in each of the places, by the hidden layer."""
    if choice.normalizers is None:
        return {}
    made: dict[LayerSite, Any] = {}
    shared: dict[tuple[int, int], Normalized] = {}
    for site, place in places.items():
        layer: Any = site.layer
        held = place.layer
        if (pair := (id(layer), id(held))) not in shared:
            axes = n_spatial(layer) or 0
            with as_usage_error(site.name, UsageError, say=str):
                units = layer.out_channels if axes else layer.out_features
                norm = choice.normalizers[axes](units, **options)
            weight = next(layer.parameters())
            norm = norm.to(weight.device, weight.dtype).train(held.training)
            share_as(layer, norm)
            both = Normalized(counterparts.get(held, held), norm, axes)
            both.training = held.training
            for name, value in vars(held).items():  # are found in this place, as before
                if not hasattr(both, name):
                    both.__dict__[name] = value
            shared[pair] = both
        made[site] = shared[pair]
    return made
