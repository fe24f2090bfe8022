"""Our layers as torch's own: folded copies, and state dicts in torch's layouts."""

import copy
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from wnrl.errors import UsageError
from wnrl.limits import one_of
from wnrl.nn import functional
from wnrl.nn.base import WeightNormed, check_nothing_is_lost
from wnrl.nn.functional import exchange_eps, may_fuse, row_norm, split_weight, weight_norm
from wnrl.nn.normalizers import Normalized
from wnrl.nn.sites import check_values


def fold(module: nn.Module) -> nn.Module:
    """A plain torch copy of ``module`` with the same function.

    Weight-normalized and spectral layers become plain layers with the computed weight. What
    depends on the activations (batch, layer, RMS norm, layer-normalised recurrence) stays a module
    of its own. A layer used twice is one layer in the copy too, and parameters that were tied stay
    tied: biases with any other, weights where they have the same computed value. (Spectral layers
    that share a weight but were used unequally often in training may differ in it.) The mode is
    that of ``module``, and what was set on a layer is set on its copy. ``torch.onnx.export`` takes
    the copy; a layer-normalised recurrence, a loop in Python, is unrolled there at the length of
    the example.

    Raises:
        UsageError: ``module`` is none; or a layer that becomes plain has hooks, methods, buffers or
            modules of its own, or a subclass's ``forward``, which would be lost, or has no values
            yet (device ``meta``).
    """
    for name, part in module.named_modules():
        if hasattr(part, "to_plain"):
            _check_foldable(name or type(part).__name__, part)
    folded = copy.deepcopy(module)
    made: dict[tuple[Tensor, ...], nn.Parameter] = {}
    layers: list[Any] = [part for part in folded.modules() if hasattr(part, "to_plain")]
    for layer in layers:
        plain = layer.to_plain()
        _tie(plain, layer, made)
        # itself, wherever it stands and whatever refers to it
        layer.__class__, layer.__dict__ = type(plain), vars(plain)
    for part in folded.modules():
        if isinstance(part, nn.RNNBase):
            part.flatten_parameters()  # in one buffer again, for cuDNN: copies are not
    return folded


def _check_foldable(label: str, layer: nn.Module) -> None:
    kind: Any = type(layer)
    ours = next((base for base in kind.__mro__ if "plain_type" in vars(base)), kind)
    if kind.to_plain is ours.to_plain:
        if kind.forward is not ours.forward:
            raise UsageError(
                f"{label} is a {kind.__name__} with a forward of its own, which folding would "
                f"lose; give {kind.__name__} a to_plain of its own"
            )
        check_nothing_is_lost(layer, label, "folding")
    if any(parameter.is_meta for parameter in layer.parameters()):
        raise UsageError(f"{label} is on the device meta: it has no values to fold")


def _tie(plain: nn.Module, source: nn.Module, made: dict[tuple[Tensor, ...], Any]) -> None:
    """Share parameters of ``plain`` with its source, or with what was made of the same ones."""
    for name, value in plain._parameters.items():
        pair = f"{name}_v" in source._parameters
        held = [source._parameters.get(name + end) for end in (("_v", "_g") if pair else ("",))]
        origins = tuple(origin for origin in held if origin is not None)
        if value is None or len(origins) < len(held):
            continue  # pruned or parametrized: no parameter that could be tied
        known = value if pair or not torch.equal(origins[0], value) else origins[0]
        if torch.equal(first := made.setdefault(origins, known), value):
            plain._parameters[name] = first


LAYOUTS: dict[str, tuple[str, ...]] = {
    "plain": ("{}",),
    "weight_norm": ("{}_g", "{}_v"),
    "parametrize": ("parametrizations.{}.original0", "parametrizations.{}.original1"),
}
"""The keys that stand for one computed weight: w itself, or g and v."""
Layout = Annotated[str, one_of(LAYOUTS)]


def state_dict_as(module: nn.Module, layout: Layout = "plain") -> dict[str, Any]:
    """The state of ``module`` as torch's own modules would write and read it.

    Torch's weight norms have no eps: where that of a layer shows, g is the length that w has, and
    rows of v too short for torch to square are longer.

    Args:
        module: a network with weight-normalized layers.
        layout: ``"plain"`` for networks of plain layers; ``"weight_norm"`` for those with
            ``nn.utils.weight_norm``; ``"parametrize"`` for those with
            ``nn.utils.parametrizations.weight_norm`` (transposed convolutions: ``dim=1``).

    Returns:
        A state dict without graphs; what belongs to no weight-normalized layer is
        unchanged, and shared with ``module`` as in ``module.state_dict()``.

    Raises:
        UsageError: an unknown layout, a pruned layer, or one that the layout cannot express:
            neither of torch's has groups of transposed convolutions, or rows without direction.
    """
    state: dict[str, Tensor] = dict(module.state_dict())
    for stem, (layer, name) in _computed_weights(module).items():
        del state[f"{stem}_v"], state[f"{stem}_g"]
        if layout == "plain":
            state[stem] = layer.compute_weight(name).detach()
            continue
        dim, groups = layer.unit_axis
        if groups > 1:
            raise UsageError(
                f"{stem} is normalised for each of {groups} groups, which torch's weight norm "
                'cannot express; write the layout "plain"'
            )
        v, g = (part.detach() for part in layer.pair(name))
        v, length = layer._visible(v), layer.length(g)
        functional.check_directions(v, f"{stem}_v", dim)
        eps = 0.0 if may_fuse(v, length, dim, layer.eps) else layer.eps
        v, length = exchange_eps(v, length, eps, 0.0, dim)
        state.update(zip(_keys(stem, layout), (length, v), strict=True))
    return state


def load_weights(
    module: nn.Module, state_dict: Mapping[str, Any], layout: Layout | None = None
) -> None:
    """Loads a state dict in any of the layouts, mixed if need be, into plain or normalized layers.

    A plain weight becomes v := w, g := ‖w‖. A pair (v, g) that was normalised along another axis
    is loaded by its computed weight. Torch's norms have no eps: g becomes what gives the same
    weight with the layer's, and rows of v too short to be squared are scaled up. Where a layer
    holds logarithms of lengths, ``scale="exp"``, the row of v is turned around for a negative
    length, which has none. Nothing is changed if anything is wrong.

    Args:
        module: plain, converted or in part.
        state_dict: of a network with the same layers under the same names; tensors or arrays.
        layout: the one that all weights are in; None takes each as its keys tell. A ``weight_g``
            for a layer with ``scale="exp"`` or a ``g_rate`` may be a length, torch's, or that
            layer's own parameter: say ``"weight_norm"`` for the former, and use
            ``module.load_state_dict`` for the latter.

    Raises:
        UsageError: an unknown layout; a layer is lazy, pruned or on the meta device; a key is
            missing, has no place or another shape; a value is no dense tensor of real numbers; a
            row of v is zero; with ``scale="exp"``, the length of a row is zero; a g may be a length
            or not, or is none, as ``module.state_dict()`` tells. The message names it.
    """
    check_values(module)
    current = module.state_dict()
    for key, target in current.items():
        if isinstance(target, Tensor) and target.is_meta:  # into which torch would copy nothing
            raise UsageError(
                f"{key} is on the meta device, which holds no values: call "
                "module.to_empty(device=...) before"
            )
    layouts = list(LAYOUTS) if layout is None else [layout]
    left = {key: _as_tensor(value) for key, value in state_dict.items()}
    computed = _computed_weights(module)
    for stem, (layer, _) in computed.items():
        if layout is None and not layer.holds_lengths and f"{stem}_g" in left:
            raise UsageError(
                f"{stem}_g is a length, or stands for one as scale={layer.scale!r} and g_rate="
                f"{layer.g_rate} say: give layout='weight_norm' for what torch wrote, and use "
                "load_state_dict for what this layer wrote"
            )
    for path, told in getattr(state_dict, "_metadata", {}).items():
        lengths = (told.get("scale", "linear"), told.get("g_rate", 1)) == ("linear", 1)
        if not lengths or told.get("eps", 0) > functional.EPS:
            raise UsageError(
                f"{path} is of a layer whose g is no length, or with an eps, that torch does not "
                "have: take wnrl.state_dict_as(network, 'weight_norm') of its network"
            )
    halves = {f"{stem}{end}" for stem in computed for end in ("_v", "_g")}
    loaded: dict[str, Any] = {}
    missing = []
    for key in (*computed, *(key for key in current if key not in halves)):
        values = _pop_values(left, key, layouts if key in computed else ["plain", *layouts])
        if not values:
            missing.append(key)
        elif key in computed:
            loaded[f"{key}_v"], loaded[f"{key}_g"] = _pair_from(key, values, *computed[key])
        else:
            loaded[key] = _checked(key, _weight_of(key, values), current[key])
    if missing:
        raise UsageError(f"state_dict lacks {', '.join(missing)}{_advice(module, left, missing)}")
    if left:
        raise UsageError(
            f"state_dict has no place in the module for {', '.join(left)}; of a network with "
            "another norm, take wnrl.fold(network).state_dict()"
        )
    module.load_state_dict(loaded)


def _as_tensor(value: Any) -> Any:
    """Return an array of numbers as a tensor of its own, and anything else as it is."""
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "fiubc":
        return torch.tensor(np.array(value, value.dtype.newbyteorder("="), order="C"))
    return value


def _advice(module: nn.Module, left: Mapping[str, Any], missing: Sequence[str]) -> str:
    """Return what a state has of the first layer that it lacks, or else first, and what to do."""
    layer = missing[0].rpartition(".")[0]
    keys = [key for key in left if key.startswith(layer)] or list(left)
    told = f"; it has {', '.join(keys[:4])}{', …' if len(keys) > 4 else ''}" if keys else ""
    if any(".parametrizations." in f".{key}" or key.endswith("_orig") for key in keys):
        told += ": remove torch's parametrization, norm or pruning before the state is taken"
    for path, part in module.named_modules():
        made = isinstance(part, Normalized) or hasattr(type(part), "plain_type")
        if made and any(key.startswith(f"{path}.") for key in missing):
            return f"{told}; a plain network's state is loaded into a plain network, before convert"
    return told


def _computed_weights(module: nn.Module) -> dict[str, tuple[WeightNormed, str]]:
    """Return layer and name of each computed weight by the key that it would have as a parameter.

    That of a shared layer has several keys.

    Raises:
        UsageError: the v or g of one is no parameter.
    """
    computed: dict[str, tuple[WeightNormed, str]] = {}
    for path, layer in module.named_modules(remove_duplicate=False):
        if isinstance(layer, WeightNormed):
            if not layer._owns_parameters():
                raise UsageError(
                    f"{path or type(layer).__name__} is pruned or parametrized, and v or g is no "
                    "parameter: remove that first"
                )
            computed |= {f"{path}.{name}".lstrip("."): (layer, name) for name in layer.computed}
    return computed


def _pair_from(
    stem: str, values: list[Tensor], layer: WeightNormed, name: str
) -> tuple[Tensor, Tensor]:
    """Return the layer's own v and g from what stands for the weight ``stem``."""
    own_v, own_g = layer.pair(name)
    dim, groups = layer.unit_axis
    v = _checked(stem, values[-1], own_v)
    # torch knows of no mask
    of_the_same_v = values[0].shape == own_g.shape and torch.equal(layer._visible(v), v)
    if len(values) > 1 and of_the_same_v:
        functional.check_directions(v, f"{stem}_v", dim, groups)
        half = own_v.dtype is torch.float16 and v.dtype is not torch.float16
        v, length = exchange_eps(v, values[0], 0.0, layer.eps, dim, groups, half)
    else:
        w = layer._visible(_weight_of(stem, values))
        v, length = split_weight(w.to(own_v), dim, layer.eps, groups, fused=layer.fused)
        v = layer._visible(v)
    if layer.scale == "exp":  # which has no sign
        v, length = v * functional.over_rows(length.sign(), v, groups).to(v.dtype), length.abs()
    return v, layer.from_length(length, stem)


def _pop_values(left: dict[str, Any], stem: str, layouts: Sequence[str]) -> list[Any]:
    """Take out the weight ``stem``, or its g and v; nothing where it is in none of the layouts."""
    for layout in layouts:
        keys = _keys(stem, layout)
        if all(key in left for key in keys):
            return [left.pop(key) for key in keys]
    return []


def _keys(stem: str, layout: str) -> list[str]:
    """The keys that stand for the weight ``stem``."""
    prefix, dot, name = stem.rpartition(".")
    return [prefix + dot + key.format(name) for key in LAYOUTS[layout]]


def _weight_of(stem: str, values: list[Any]) -> Any:
    """A weight, or g v/‖v‖ along the axis that the shape of g tells; all, where g has no axes."""
    if len(values) == 1:
        return values[0]
    g, v = values
    if not g.dim():
        return _weight_of(stem, [g.view(1, 1), v.reshape(1, -1)]).view_as(v)
    dims = [dim for dim in range(v.dim()) if g.shape == row_norm(v, dim).shape]
    if not dims:
        raise UsageError(f"{stem}: g of shape {tuple(g.shape)} fits no axis of v {tuple(v.shape)}")
    functional.check_directions(v, f"{stem}_v", dims[0])
    return weight_norm(*exchange_eps(v, g, 0.0, functional.EPS, dims[0]), dims[0])


def _checked(key: str, value: Any, target: Any) -> Any:
    """Return a value for what has ``target`` now; of what is no tensor it is not looked at."""
    if not isinstance(target, Tensor):
        return value
    dense = isinstance(value, Tensor) and value.layout is torch.strided and not value.is_quantized
    if not dense or (value.is_complex() and not target.is_complex()):
        is_tensor = isinstance(value, Tensor)
        got = f"{value.layout} of {value.dtype}" if is_tensor else type(value).__name__
        raise UsageError(f"{key} must be a dense tensor of numbers like {target.dtype}, got {got}")
    functional.check_shape(key, value, target.shape)
    return value
