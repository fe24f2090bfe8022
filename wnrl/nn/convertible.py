"""What ``convert`` refuses before it changes anything."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from typing import Any

from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from wnrl.errors import UsageError, check_positive
from wnrl.nn.base import WeightNormed
from wnrl.nn.fold import HOOKS
from wnrl.nn.mean_only import check_momentum
from wnrl.nn.normalised import Normalised
from wnrl.nn.slots import RECURRENT, Slot, hidden_slots, is_nonlinear
from wnrl.norms import NORMS, Norm

ORIGINS: dict[type[nn.Module], type[nn.Module]] = {
    ours: plain for norm in NORMS.values() for plain, ours in norm.layers.items()
}
"""From the layers that take the place of plain ones back to those."""
WORDS = ("scale",)
"""Options of norms that are no numbers."""


@contextmanager
def naming(slot: Slot) -> Iterator[None]:
    """Puts the name of ``slot`` in front of a UsageError."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{slot.name}: {error}") from error


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


def check_values(module: nn.Module) -> None:
    """Raises UsageError for a layer whose sizes are not known yet."""
    for name, part in module.named_modules():
        if isinstance(part, LazyModuleMixin) and part.has_uninitialized_params():  # type: ignore[misc]
            raise UsageError(f"{name} is lazy and has no weight yet: call the network once before")


def check_replaceable(module: nn.Module, found: list[Slot], choice: Norm) -> None:
    """Refuses to lose hooks, and to normalise a weight in one layer and not in another."""
    places = [slot for slot in found if type(slot.layer) in choice.layers]
    for slot in places:
        if any(getattr(slot.layer, kind) for kind in HOOKS):
            raise UsageError(f"{slot.name} has hooks that conversion would lose; remove them first")
    if not any(issubclass(layer, WeightNormed) for layer in choice.layers.values()):
        return
    ours = {id(slot.layer) for slot in places}
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
    found: list[Slot], choice: Norm, placement: str, options: Mapping[str, Any]
) -> None:
    """Refuses a second norm where the first one stands, or the same with another option.

    A weight has one parametrisation, and one normaliser stands behind a layer; one of each may be
    combined (``weight`` after ``batch``). What has nothing to do for this norm is no matter.

    Raises:
        UsageError: a layer or normaliser that this call would leave as another one made it.
    """
    hidden = {slot.name for slot in hidden_slots(found)}
    for slot in found:
        with naming(slot):
            if isinstance(slot.layer, Normalised):
                _check_normaliser(slot.layer, choice, placement, options)
            else:
                _check_layer(slot, choice, options, hidden=slot.name in hidden)


def _check_normaliser(
    part: Normalised, choice: Norm, placement: str, options: Mapping[str, Any]
) -> None:
    kind = type(part.norm).__name__
    stands = "post" if is_nonlinear(part.layer) else "pre"
    if choice.projected and not getattr(part.layer, "projected", False):
        raise UsageError(f'has a {kind} already: convert to "projected" before')
    if choice.normalisers is None:
        return
    # A partial of a class stands for that class.
    if type(part.norm) not in [getattr(made_by, "func", made_by) for made_by in choice.normalisers]:
        raise UsageError(f"has a {kind} already, and can have no second normaliser")
    if stands != placement:
        raise UsageError(f"has a {kind} already, with placement {stands!r}, not {placement!r}")
    _check_same(part.norm, {name: options[name] for name in choice.options if name in options})


def _check_layer(slot: Slot, choice: Norm, options: Mapping[str, Any], hidden: bool) -> None:
    kind = type(slot.layer)
    origin = ORIGINS.get(kind)
    if getattr(slot.layer, "projected", False) and kind in choice.layers:
        raise UsageError("is projected already, and its weight can have no second norm")
    if origin is None:
        return
    reached = hidden or issubclass(origin, RECURRENT)
    ours = choice.layers.get(origin)
    if (choice.projected and reached) or ours not in (None, kind):
        raise UsageError(f"is a {kind.__name__} already, and its weight can have no second norm")
    if ours is kind:
        names = [name for name in choice.layer_options if name in options]
        _check_same(slot.layer, {name: options[name] for name in names})


def _check_same(part: nn.Module, options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        if getattr(part, name) != value:
            raise UsageError(
                f"is a {type(part).__name__} with {name}={getattr(part, name)!r} already, "
                f"got {name}={value!r}"
            )
