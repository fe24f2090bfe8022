"""Our layers as torch's own: folded copies, and state dicts in torch's layouts."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wnrl.errors import UsageError, check_choice
from wnrl.nn.base import WeightNormed, check_nothing_is_lost
from wnrl.nn.functional import check_directions, split_weight, weight_norm
from wnrl.nn.sites import check_values


def fold(module: nn.Module) -> nn.Module:
    """A plain torch copy of ``module`` with the same function.

    Weight-normalized and spectral layers become plain layers with the computed weight. What
    depends on the activations (batch, layer, RMS norm, layer-normalised recurrence) stays a module
    of its own. A layer used twice is one layer in the copy too, and parameters that were tied stay
    tied: biases with any other, weights where they have the same computed value. (Spectral layers
    that share a weight but were used unequally often in training may differ in it.) The mode is
    that of ``module``. ``torch.onnx.export`` takes the copy; a layer-normalised recurrence, a loop
    in Python, is unrolled there at the length of the example.

    Raises:
        UsageError: ``module`` is none; or a layer that becomes plain has hooks, methods, buffers or
            modules of its own, or a subclass's ``forward``, which would be lost, or has no values
            yet (device ``meta``).
    """
    for name, layer in module.named_modules():
        if hasattr(layer, "to_plain"):
            _check_foldable(name or type(layer).__name__, layer)
    root = nn.ModuleList([copy.deepcopy(module)])  # so that a layer by itself has a parent too
    folded: dict[int, nn.Module] = {}
    made: dict[tuple[int, ...], nn.Parameter] = {}
    sources: list[nn.Module] = []  # kept alive: the ids of their parameters are keys
    for parent in list(root.modules()):
        for key, child in list(parent._modules.items()):
            if child is not None and hasattr(child, "to_plain"):
                if id(child) not in folded:
                    sources.append(child)
                    folded[id(child)] = child.to_plain()  # type: ignore[operator]
                    _tie(folded[id(child)], child, made)
                setattr(parent, key, folded[id(child)])
    for part in root.modules():
        if isinstance(part, nn.RNNBase):
            part.flatten_parameters()  # in one buffer again, for cuDNN: copies are not
    return root[0]


def _check_foldable(label: str, layer: nn.Module) -> None:
    kind: Any = type(layer)
    ours: Any = next((base for base in kind.__mro__ if "plain_type" in vars(base)), kind)
    if kind.to_plain is ours.to_plain:
        if kind.forward is not ours.forward:
            raise UsageError(
                f"{label} is a {kind.__name__} with a forward of its own, which folding would "
                f"lose; give {kind.__name__} a to_plain of its own"
            )
        check_nothing_is_lost(layer, label, "folding")
    if any(parameter.is_meta for parameter in layer.parameters()):
        raise UsageError(f"{label} is on the device meta: it has no values to fold")


def _tie(plain: nn.Module, source: Any, made: dict[tuple[int, ...], nn.Parameter]) -> None:
    """Gives ``plain`` its parameters anew: unchanged ones, and those made of the same before."""
    for name, value in list(plain._parameters.items()):
        pair = name in getattr(source, "pairs", ())
        origins = [source._parameters.get(name + end) for end in (("_v", "_g") if pair else ("",))]
        if value is None or any(origin is None for origin in origins):
            continue  # pruned or parametrized: no parameter that could be tied
        unchanged = None if pair else origins[0]
        earlier = made.setdefault(tuple(id(origin) for origin in origins), value)
        for candidate in (unchanged, earlier):
            if candidate is not None and torch.equal(candidate, value):
                setattr(plain, name, candidate)
                break


LAYOUTS: dict[str, tuple[str, ...]] = {
    "plain": ("{}",),
    "weight_norm": ("{}_g", "{}_v"),
    "parametrize": ("parametrizations.{}.original0", "parametrizations.{}.original1"),
}
"""The keys that stand for one computed weight: w itself, or g and v."""


def state_dict_as(module: nn.Module, layout: str = "plain") -> dict[str, Tensor]:
    """The state of ``module`` as torch's own modules would write and read it.

    Args:
        module: a network with weight-normalized layers.
        layout: ``"plain"`` for networks of plain layers; ``"weight_norm"`` for those with
            ``nn.utils.weight_norm``; ``"parametrize"`` for those with
            ``nn.utils.parametrizations.weight_norm`` (transposed convolutions: ``dim=1``).

    Returns:
        A state dict of tensors without graph; what belongs to no weight-normalized layer is
        unchanged, and shared with ``module`` as in ``module.state_dict()``.

    Raises:
        UsageError: an unknown layout, or a layer that it cannot express: ``weight_norm`` has no
            ``scale="exp"``, and neither of torch's has groups of transposed convolutions.
    """
    check_choice("layout", layout, LAYOUTS)
    state: dict[str, Tensor] = dict(module.state_dict())
    for prefix, layer in _layers(module):
        for name in layer.pairs:
            del state[f"{prefix}{name}_v"], state[f"{prefix}{name}_g"]
            keys = _keys(f"{prefix}{name}", layout)
            if layout == "plain":
                state[keys[0]] = layer.compute_weight(name).detach()
                continue
            _check_expressible(layer, layout, f"{prefix}{name}")
            v, g = (part.detach() for part in layer.pair(name))
            length = g.exp() if layer.scale == "exp" else g
            state.update(zip(keys, (length, layer._visible(v)), strict=True))
    return state


def load_weights(
    module: nn.Module, state_dict: Mapping[str, Tensor], layout: str | None = None
) -> None:
    """Loads a state dict in any of the layouts, mixed if need be, into plain or normalized layers.

    A plain weight becomes v := w, g := ‖w‖. A pair (v, g) that was normalised along another axis
    is loaded by its computed weight. Where a layer holds logarithms of lengths, ``scale="exp"``,
    the row of v is turned around for a negative length, which has none. Nothing is changed if
    anything is wrong.

    Args:
        module: plain, converted or in part.
        state_dict: of a network with the same layers under the same names.
        layout: the one that all weights are in; None takes each as its keys tell. A ``weight_g``
            for a layer with ``scale="exp"`` may be a length, torch's, or a logarithm, that layer's
            own: say ``"weight_norm"`` for the former, and use ``module.load_state_dict`` for the
            latter.

    Raises:
        UsageError: an unknown layout; a layer is lazy or on the meta device; a key is missing, has
            no place or another shape; a row of v is zero; with ``scale="exp"``, the length of a row
            is zero, or may be a logarithm. The message names it.
    """
    check_values(module)
    _check_storage(module)
    if layout is not None:
        check_choice("layout", layout, LAYOUTS)
    layouts = [layout] if layout is not None else list(LAYOUTS)
    left = dict(state_dict)
    loaded: dict[str, Tensor] = {}
    ours = {
        f"{prefix}{name}": (layer, name)
        for prefix, layer in _layers(module)
        for name in layer.pairs
    }
    for stem, (layer, name) in ours.items():
        if layout is None and layer.scale == "exp" and f"{stem}_g" in left:
            raise UsageError(
                f"{stem}_g is a length or a logarithm (scale='exp'): say layout='weight_norm' for "
                "what torch wrote, and use load_state_dict for what this layer wrote"
            )
        loaded[f"{stem}_v"], loaded[f"{stem}_g"] = _take_pair(left, stem, layer, name, layouts)
    missing = []
    for key, target in module.state_dict().items():
        if key in loaded:
            continue
        value = left.pop(key) if key in left else _take_weight(left, key, layouts)
        if value is None:
            missing.append(key)
        else:
            _check_shape(key, value, target)
            loaded[key] = value
    if missing:
        raise UsageError(f"state_dict lacks {', '.join(missing)}")
    if left:
        raise UsageError(f"state_dict has no place in the module for {', '.join(left)}")
    module.load_state_dict(loaded)


def _check_storage(module: nn.Module) -> None:
    """Refuses tensors on the meta device, into which torch would copy nothing."""
    for key, target in module.state_dict().items():
        if target.is_meta:
            raise UsageError(
                f"{key} is on the meta device, which holds no values: call "
                "module.to_empty(device=...) before"
            )


def _layers(module: nn.Module) -> Iterator[tuple[str, WeightNormed]]:
    """Weight-normalized layers with the prefix of their keys; a shared one has several."""
    for path, layer in module.named_modules(remove_duplicate=False):
        if isinstance(layer, WeightNormed):
            yield (f"{path}." if path else ""), layer


def _check_expressible(layer: WeightNormed, layout: str, stem: str) -> None:
    if layer.unit_axis[1] > 1:
        raise UsageError(
            f"{stem} is normalised for each of {layer.unit_axis[1]} groups, which torch's weight "
            'norm cannot express; write the layout "plain"'
        )
    if layout == "weight_norm" and layer.scale == "exp":
        raise UsageError(
            f"{stem}_g holds a logarithm (scale='exp'), which the layout 'weight_norm' has no "
            'word for; write "parametrize" or "plain"'
        )


def _take_pair(
    left: dict[str, Any], stem: str, layer: WeightNormed, name: str, layouts: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """The layer's own v and g from what stands for the weight ``stem``, removed from ``left``."""
    own_v, own_g = layer.pair(name)
    found = _pop_layout(left, stem, layouts)
    if found is None:
        forms = " or ".join(" with ".join(_keys(stem, known)) for known in layouts)
        raise UsageError(f"state_dict lacks {forms}")
    layout, values = found
    v = values[-1]
    _check_shape(f"{stem}, from {layout}", v, own_v)
    if layout != "plain" and values[0].shape == own_g.shape and _same_norm(layer, v):
        v, g = _as_written(stem, layer, v, values[0])
    else:
        dim, groups = layer.unit_axis
        w = layer._visible(v if layout == "plain" else _weight_of(stem, *values))
        v, g = split_weight(w.to(own_v), dim, layer.eps, groups)
        v, g = _as_written(stem, layer, layer._visible(v), g)
    check_directions(layer._visible(v), f"{stem}_v", *layer.unit_axis)
    return v, g


def _same_norm(layer: WeightNormed, v: Tensor) -> bool:
    """Whether the norm of ``v`` is the same to the layer as to torch, which knows of no mask."""
    return torch.equal(layer._visible(v), v)


def _as_written(stem: str, layer: WeightNormed, v: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Directions and the parameter g of ``layer``, for directions v and signed lengths.

    Raises:
        UsageError: a length is zero, and ``layer`` holds logarithms.
    """
    if layer.scale != "exp":
        return v, length
    zero = (length == 0).flatten()
    if zero.any():
        raise UsageError(
            f"{stem} has rows of length zero (the first: {int(zero.nonzero()[0])}), which "
            "scale='exp' cannot express"
        )
    sign = length.sign().to(v.dtype)
    if layer.unit_axis[1] > 1:
        sign = sign.repeat_interleave(len(v) // layer.unit_axis[1], 0)
    return v * sign, length.abs().log()


def _take_weight(left: dict[str, Any], key: str, layouts: Sequence[str]) -> Tensor | None:
    """As ``_take_pair``, for a plain weight."""
    found = _pop_layout(left, key, layouts)
    return None if found is None else _weight_of(key, *found[1])


def _pop_layout(
    left: dict[str, Any], stem: str, layouts: Sequence[str]
) -> tuple[str, list[Tensor]] | None:
    for layout in layouts:
        keys = _keys(stem, layout)
        if all(key in left for key in keys):
            return layout, [left.pop(key) for key in keys]
    return None


def _keys(stem: str, layout: str) -> list[str]:
    """The keys that stand for the weight ``stem``."""
    prefix, dot, name = stem.rpartition(".")
    return [prefix + dot + key.format(name) for key in LAYOUTS[layout]]


def _weight_of(stem: str, g: Tensor, v: Tensor) -> Tensor:
    """``g v/‖v‖`` along the axis that the shape of g tells; a g without axes is for the whole."""
    if not g.dim():
        return g * v / v.norm()
    dims = [dim for dim in range(v.dim()) if g.shape == _lengths_shape(v, dim)]
    if not dims:
        raise UsageError(f"{stem}: g of shape {tuple(g.shape)} fits no axis of v {tuple(v.shape)}")
    return weight_norm(v, g, dims[0])


def _lengths_shape(v: Tensor, dim: int) -> tuple[int, ...]:
    return tuple(size if axis == dim else 1 for axis, size in enumerate(v.shape))


def _check_shape(key: str, value: Tensor, target: Tensor) -> None:
    if value.shape != target.shape:
        raise UsageError(f"{key} must have shape {tuple(target.shape)}, got {tuple(value.shape)}")
