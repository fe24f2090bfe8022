"""The base of every weight-normalized layer: its pairs (v, g), and torch's layer behind them."""

import inspect
import warnings
from collections.abc import Callable
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.fx import _symbolic_trace as tracing

from wnrl.arguments import checked
from wnrl.errors import UsageError, as_usage_error, first_line
from wnrl.limits import Positive
from wnrl.nn import functional
from wnrl.nn.cache import WeightCache
from wnrl.nn.computed import read_computed, read_from
from wnrl.nn.functional import in_transform, row_norm, split_weight, transposed_groups, weight_norm

torch.fx.wrap("weight_norm")  # one call in a symbolic trace, which keeps v and g as parameters

Scale = Literal["linear", "exp"]
UNTYPED = {"device": torch.device | str | int | None, "dtype": torch.dtype | None}
"""Parameters that torch does not annotate."""


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return those of a method, without ``self``."""
    return list(inspect.signature(function).parameters.values())[1:]


def _torch_parameters(plain: Any) -> list[inspect.Parameter]:
    shown = _parameters((nn.RNNBase if issubclass(plain, nn.RNNBase) else plain).__init__)
    hidden = ("mode", "proj_size") if plain is nn.GRU else ("mode",)
    return [
        p.replace(annotation=UNTYPED.get(p.name, p.annotation))
        for p in shown
        if p.name not in hidden
    ]


def torch_parameters(plain: nn.Module) -> dict[str, nn.Parameter | None]:
    """Return the parameters of a plain layer by name, in the order of torch's constructor.

    That order is not always the one of registration: torch registers a weight anew, behind the
    others, when a parametrization, a pruning or a weight norm is removed from it.

    Raises:
        UsageError: the layer has other parameters than torch's (LoRA), or a weight that is none
            (pruned, dropped out, a plain tensor).
    """
    kind: Any = getattr(type(plain), "plain_type", type(plain))
    if issubclass(kind, nn.RNNBase):
        names: list[str] = plain._flat_weights_names  # type: ignore[assignment]
    elif issubclass(kind, nn.RNNCellBase):
        names = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
    else:
        names = ["weight"] if issubclass(kind, nn.Embedding) else ["weight", "bias"]
    parameters = plain._parameters
    if parameters.keys() != set(names):
        raise UsageError(
            f"a {kind.__name__} must have torch's parameters {', '.join(names)} and no "
            f"other, got {', '.join(parameters) or 'none'}"
        )
    for name, value in parameters.items():
        if type(value) is not nn.Parameter and (value is not None or name.startswith("weight")):
            raise UsageError(f"{name} must be an nn.Parameter, got {type(value).__name__}")
    return {name: parameters[name] for name in names}


def check_nothing_is_lost(layer: nn.Module, label: str, step: str) -> None:
    """Raise UsageError if ``layer`` has more than its class gives it, which ``step`` would lose.

    Args:
        layer: to be replaced by another layer with its parameters.
        label: its name.
        step: the word for what replaces it.
    """
    held = [f"the buffer {n}" for n in layer._buffers if n not in getattr(layer, "own_buffers", ())]
    held += [f"the module {name}" for name in layer._modules if name != "parametrizations"]
    held += [
        f"its own {n}" for n, v in vars(layer).items() if callable(v) and hasattr(type(layer), n)
    ]
    parameters = [p for p in layer._parameters.values() if p is not None]
    kinds = [kind for kind in vars(layer) if kind.endswith("hooks")]
    hooks = [vars(layer)[kind] for kind in kinds if kind != "_load_state_dict_pre_hooks"]
    # torch's weight norm and spectral norm leave one of their own when they are removed
    loading = [getattr(hook, "hook", hook) for hook in layer._load_state_dict_pre_hooks.values()]
    hooks += [hook for hook in loading if not str(hook.__module__).startswith("torch.nn.utils")]
    hooks += [h for p in parameters for h in (p._backward_hooks, p._post_accumulate_grad_hooks)]
    if held := held + ["hooks"] * any(hooks):
        raise UsageError(f"{label} has {', '.join(held)} that {step} would lose; remove them first")


def share_as(source: nn.Module, made: nn.Module) -> None:
    """Move ``made`` to memory shared with other processes if ``source`` has parameters there."""
    if any(p.is_cpu and p.is_shared() for p in source.parameters()):
        made.share_memory()


class Counterpart(nn.Module):
    """A layer that takes the place of one of torch's, with its arguments and options of its own.

    It has all that torch's layer has in its ``__dict__``: settings, parameters, and what a caller
    set there. Its options are the keyword arguments of ``_adopt``, of the class and of its bases.
    """

    plain_type: ClassVar[type[nn.Module]]
    """torch's layer with the same arguments."""
    options: ClassVar[dict[str, Any]]
    """Names of further ones, and their defaults."""
    computed: tuple[str, ...] = ()
    """Names of the weights that are computed from parameters, as the plain layer has them."""
    own_settings: ClassVar[tuple[str, ...]] = ()
    """Names of further attributes that torch's layer does not have."""
    own_buffers: tuple[str, ...] = ()
    """Names of its buffers."""
    __prepare_scriptable__ = functional.refuse_script

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Give ``cls`` the signature of its ``plain_type`` and, by name, its options.

        ``help``, editors and ``torch.nn.utils.skip_init`` read it. A class that derives from a
        layer and has a constructor of its own shows that one.
        """
        super().__init_subclass__(**kwargs)
        if "plain_type" in vars(cls):
            methods = [vars(base)["_adopt"] for base in cls.__mro__ if "_adopt" in vars(base)]
            inherited = [p for method in methods for p in _parameters(method)]
            options = {p.name: p for p in inherited if p.kind is p.KEYWORD_ONLY}
            cls.options = {name: p.default for name, p in options.items()}
            shown = [*_torch_parameters(cls.plain_type), *options.values()]
        elif "__init__" in vars(cls):
            shown = _parameters(cls.__init__)
        else:
            return
        cls.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        options = {name: kwargs.pop(name) for name in self.options if name in kwargs}
        names = [parameter.name for parameter in _torch_parameters(self.plain_type)]
        for name, value in {**dict(zip(names, args, strict=False)), **kwargs}.items():
            if isinstance(value, int) and value < 0 and name != "padding_idx":
                raise UsageError(f"{name} must not be negative, got {value}")
        kinds = AssertionError, RuntimeError, ValueError
        with (
            as_usage_error(self.plain_type.__name__, *kinds, say=first_line),
            warnings.catch_warnings(),  # a weight norm refuses an empty dimension itself
        ):
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")
            plain = self.plain_type(*args, **kwargs)
        self._replace(plain, options)

    def _replace(self, plain: nn.Module, options: dict[str, Any]) -> None:
        self.__dict__ |= _without(plain, ())
        self._adopt(**options)

    def _adopt(self) -> None:
        """Make of torch's parameters what the layer has instead; in subclasses, with options."""

    @classmethod
    def from_plain(cls, plain: nn.Module, **options: Any) -> Self:
        """Return a layer with the function of ``plain``, which keeps and shares its biases.

        What was set on ``plain`` beside torch's attributes is set on it too.

        Args:
            plain: a layer of exactly ``plain_type``.
            **options: those of the constructor. ``v_init_std`` rescales every row of v to this root
                mean square, where the constructor draws it; the function stays.

        Raises:
            UsageError: ``plain`` is of another type, has other parameters than torch's, or hooks,
                methods, buffers or modules of its own, which would be lost; or an attribute of its
                own whose name the layer needs.
        """
        kind = cls.plain_type.__name__
        if type(plain) is not cls.plain_type:
            raise UsageError(f"plain must be a {kind}, got {type(plain).__name__}")
        check_nothing_is_lost(plain, f"the {kind}", "conversion")
        torch_parameters(plain)
        for name in vars(plain):
            if hasattr(cls, name) or name in (*cls.options, *cls.own_settings):
                raise UsageError(
                    f"the {kind} has its own {name}, which in a {cls.__name__} means something "
                    "else; rename it"
                )
        layer = cls.__new__(cls)
        layer._replace(plain, options)
        share_as(plain, layer)
        return layer

    def plain_values(self) -> dict[str, Tensor | None]:
        """Return parameters by name, with what is computed as it is now, with its graph."""
        layer: Any = self
        return {**self._parameters, **{name: layer.compute_weight(name) for name in self.computed}}

    def _as_plain(self) -> Any:
        """Return torch's layer with parameters of its own, and all else that this one has of it."""
        with torch.enable_grad():  # so that a value requires grad where its parameters do
            values = self.plain_values()
        plain: Any = self.plain_type.__new__(self.plain_type)
        plain.__dict__ |= _without(self, (*self.options, *self.own_settings))
        plain._parameters, plain._buffers, plain._modules = dict.fromkeys(values), {}, {}
        for name in getattr(self.plain_type, "own_buffers", ()):
            plain._buffers[name] = self.get_buffer(name).clone()
        for name, value in values.items():
            if value is not None:
                own = value.detach().clone()
                plain._parameters[name] = nn.Parameter(own, value.requires_grad)
        if isinstance(plain, nn.RNNBase):
            plain._init_flat_weights()
        return plain

    def extra_repr(self) -> str:
        """Return torch's description of the plain layer, and the options that were chosen."""
        chosen = {name: getattr(self, name) for name in self.options}
        shown = [f"{n}={value!r}" for n, value in chosen.items() if value != self.options[n]]
        return ", ".join([self.plain_type.extra_repr(self), *shown])


def _without(layer: nn.Module, names: tuple[str, ...]) -> dict[str, Any]:
    """Return a copy of the attributes of a layer but these, with registries of its own."""
    names = (*names, "_flat_weights", "_flat_weight_refs")  # which torch makes of the parameters
    held = {name: value for name, value in vars(layer).items() if name not in names}
    registries = {n: v for n, v in held.items() if n.startswith("_") and isinstance(v, dict | set)}
    return held | {name: registry.copy() for name, registry in registries.items()}


class WeightNormed(Counterpart):
    """A torch layer whose every parameter ``weight*`` is computed: w = g · v / ‖v‖.

    Each such parameter is replaced by two, ``<name>_g`` and ``<name>_v``, named and shaped as
    torch's own weight norm has them. The layer is built by torch's constructor first, so that
    arguments, defaults, initial values and the use of the random generator are torch's.

    It is no subclass of the plain layer: initialisers that write ``module.weight`` of every
    ``nn.Linear`` would be lost without a word.

    Args:
        *args: those of the plain layer.
        scale: ``"linear"`` trains the length g itself, ``"exp"`` its logarithm (w = exp(g) v/‖v‖).
        v_init_std: None starts v as torch's initial weight and g as its norm. A number starts as
            the paper does: v ~ N(0, v_init_std²) and length 1, for ``data_init`` to rescale.
        eps: added to ‖v‖².
        g_rate: the parameter is g / g_rate (with ``"exp"``, log g / g_rate), so that a step of Adam
            moves g that many times as far; one of SGD its square. 1 is the paper's.
        **kwargs: those of the plain layer.

    Raises:
        UsageError: a weight has an empty dimension, or ``scale``, ``v_init_std``, ``eps`` or
            ``g_rate`` makes no sense.
    """

    unit_axis: tuple[int, int] = (0, 1)
    """The axis of a weight that counts output units, and the blocks of axis 0 that do so apart."""
    fused = True
    """Whether a weight is computed from a parameter v itself, so that torch's kernel may do it."""
    order: tuple[str, ...]
    """Names of the plain layer's parameters."""
    own_settings = ("unit_axis", "order", "computed", "_cache")

    _cache: WeightCache | None = None  # set while frozen() or shared_weights() is open

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._draw_directions()

    @checked
    def _adopt(
        self,
        *,
        scale: Scale = "linear",
        v_init_std: float | None = None,
        eps: Positive = functional.EPS,
        g_rate: Positive = 1.0,
    ) -> None:
        functional.check_deviation(v_init_std)
        self.scale, self.v_init_std, self.eps, self.g_rate = scale, v_init_std, eps, g_rate
        if groups := transposed_groups(self):
            self.unit_axis = (1, groups)
        plain, self._parameters = torch_parameters(self), {}
        self.order = tuple(plain)
        self.computed = tuple(name for name in plain if name.startswith("weight"))
        for name, value in plain.items():
            if value is None or name not in self.computed:
                self._parameters[name] = value
                continue
            v, g = self._split(name, value.detach())
            for suffix, part in (("_g", g), ("_v", v)):
                self._parameters[name + suffix] = nn.Parameter(part, value.requires_grad)

    def _split(self, name: str, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return v and the parameter g of a computed weight."""
        label = f"{type(self).__name__}.{name}"
        dim, groups = self.unit_axis
        if weight.numel() == 0:
            functional.check_directions(weight, label)
        if weight.is_meta:
            return weight.clone(), row_norm(weight, dim, self.eps, groups).to(weight.dtype)
        v, length = split_weight(weight, dim, self.eps, groups, self.v_init_std, self.fused)
        return v, self.from_length(length, label).to(weight.dtype)

    @property
    def holds_lengths(self) -> bool:
        """Whether the parameter is the length g itself."""
        return self.scale == "linear" and self.g_rate == 1

    def length(self, g: Tensor) -> Tensor:
        """Return the lengths that a parameter ``g`` stands for."""
        g = g if self.g_rate == 1 else self.g_rate * g
        return g.exp() if self.scale == "exp" else g

    def from_length(self, length: Tensor, label: str = "length") -> Tensor:
        """Return the parameter that stands for lengths.

        Raises:
            UsageError: ``scale="exp"``, and a length is zero; the message begins with ``label``.
        """
        if self.scale == "exp":
            zero = (length == 0).flatten().nonzero()
            if len(zero):
                raise UsageError(
                    f"{label} has rows of length zero (the first: {int(zero[0])}), which "
                    "scale='exp' cannot express"
                )
            length = length.log()
        return length if self.g_rate == 1 else length / self.g_rate

    @torch.no_grad()
    def _draw_directions(self) -> None:
        """Start as the paper does, if asked to; a padding index's row of length zero stays one."""
        if (std := self.v_init_std) is None:
            return
        for name in self.computed:
            v, g = self.pair(name)
            v.copy_(self._visible(nn.init.normal_(v, std=std)))
            g.copy_(self.from_length((self.length(g) != 0).to(g)))

    def _visible(self, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Directions without what the layer, or one with that ``mask``, does not look at."""
        return v

    def pair(self, name: str = "weight") -> tuple[nn.Parameter, nn.Parameter]:
        """The parameters v and g behind the computed weight ``name``."""
        return getattr(self, f"{name}_v"), getattr(self, f"{name}_g")

    def compute_weight(self, name: str = "weight") -> Tensor:
        """The computed weight ``name``, computed now, with its graph where grad is on."""
        return self._normalized(self._parameter(f"{name}_v"), self._parameter(f"{name}_g"))

    def _normalized(self, v: Tensor, g: Tensor) -> Tensor:
        dim, groups = self.unit_axis
        return weight_norm(v, self.length(g), dim, self.eps, groups)

    def _parameter(self, name: str) -> Any:
        """``getattr``, by a way that is three times as fast where nothing has replaced it."""
        parameters = self._parameters
        if name in parameters and not tracing.is_fx_symbolic_tracing():
            return parameters[name]
        return getattr(self, name)

    def assign(self, name: str, weight: Tensor) -> None:
        """Sets v and g so that the computed weight ``name`` becomes ``weight``.

        A row of zeros becomes g = 0 and keeps its v. The weight as it was read brings v and g back.

        Raises:
            UsageError: ``weight`` is no tensor, of another shape, or has a graph or a tie, which
                would be lost; ``scale="exp"`` and a row is zero; or v or g is no parameter.
        """
        v, g = self.pair(name)
        label = f"{type(self).__name__}.{name}"
        if not self._owns_parameters():
            raise UsageError(f"{label} is pruned or parametrized, by v or g: remove that first")
        functional.check_shape(label, weight, v.shape)
        pair = read_from(weight, self, name)
        followed = weight.requires_grad and torch.is_grad_enabled()
        if in_transform() or (followed and pair is None and not isinstance(weight, nn.Parameter)):
            raise UsageError(
                f"{label} is computed from {name}_v and {name}_g and takes values, not a graph or "
                "a tie: replace or share these two, or assign weight.detach()"
            )
        with torch.no_grad():
            new_v, new_g = pair or self._split(name, weight.detach().to(v))
            v.copy_(new_v)
            g.copy_(new_g)

    def _weights(self) -> Any:
        """Return what ``_compute`` returns; inside a scope, perhaps kept from an earlier call."""
        cache = self._cache
        return self._compute() if cache is None else cache.weights(self)

    def _compute(self) -> tuple[Tensor | None, ...]:
        """Computed weights and biases, ordered as the plain layer's parameters."""
        return tuple(self.plain_values().values())

    def plain_values(self) -> dict[str, Tensor | None]:
        """Return computed weights and biases, named and ordered as the plain layer's parameters."""
        computed = self.computed
        return {
            name: self.compute_weight(name) if name in computed else self._parameter(name)
            for name in self.order
        }

    def _owns_parameters(self) -> bool:
        """Whether v, g and biases are parameters here, not pruned, parametrized or a replica's."""
        names = {part for name in self.computed for part in (f"{name}_v", f"{name}_g")}
        return (names | {*self.order} - {*self.computed}) <= self._parameters.keys()

    def __getattr__(self, name: str) -> Any:
        if name in self.computed:
            return read_computed(self, name)
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        # nn.Module would register a Parameter given as `weight` beside v and g, or refuse it.
        if name in self.computed:
            self.assign(name, value)
            return
        old = self.__dict__.get("_parameters", {}).get(name)
        if old is not None and isinstance(value, nn.Parameter) and name[:-2] in self.computed:
            label = f"{type(self).__name__}.{name}"
            functional.check_shape(label, value, old.shape)
            if name.endswith("_v"):
                functional.check_directions(self._visible(value.detach()), label, *self.unit_axis)
        super().__setattr__(name, value)

    def to_plain(self) -> nn.Module:
        """The plain torch layer with the same function and parameters of its own."""
        return self._as_plain()

    def reset_parameters(self) -> None:
        """Draws the parameters anew, as the constructor does."""
        shell = self.to_plain()
        shell.reset_parameters()  # type: ignore[operator]
        with torch.no_grad():
            for name, value in shell.named_parameters():
                getattr(self, name).copy_(value)
        self._draw_directions()

    @property
    def meaning(self) -> dict[str, Any]:
        """Return the options that say what v and g stand for, as a state dict's metadata has it."""
        return {name: getattr(self, name) for name in ("scale", "g_rate", "eps")}

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if prefix[:-1] in getattr(destination, "_metadata", {}):
            destination._metadata[prefix[:-1]] |= self.meaning

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: Any, *args: Any
    ) -> None:
        told = {name: local_metadata.get(name, own) for name, own in self.meaning.items()}
        if told != self.meaning:
            args[-1].append(f"{prefix[:-1]} is of a layer with {told}, not {self.meaning}.")
            return
        for name in self.computed:
            v, own = state_dict.get(f"{prefix}{name}_v"), self.pair(name)[0]
            if v is not None and v.shape == own.shape:
                visible = self._visible(v, state_dict.get(f"{prefix}mask"))
                functional.check_directions(visible, f"{prefix}{name}_v", *self.unit_axis)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def __getstate__(self) -> dict[str, Any]:
        # A copy is in no scope, and a pickle holds no kept weight.
        held = super().__getstate__()  # type: ignore[no-untyped-call]
        return {key: value for key, value in held.items() if key != "_cache"}
