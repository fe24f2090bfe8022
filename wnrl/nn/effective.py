"""What ``layer.weight`` returns: a tensor through which a write reaches v and g.

The effective weight is computed, so an initialiser that fills it in place would fill a temporary
and be lost without a word. ``EffectiveWeight`` notices: whatever writes into it, or into a view of
it, is handed to the layer, which splits the new values into v and g. numpy writes without telling:
its arrays of it are read-only. What gets hold of the memory in another way (DLPack, an address)
holds a copy.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from wnrl.errors import UsageError
from wnrl.nn.functional import in_transform

Assign = Callable[[Tensor], None]


class Owner(Protocol):
    """A layer with effective weights."""

    def effective(self, name: str) -> Tensor:
        """The effective weight ``name``."""

    def assign(self, name: str, weight: Tensor) -> None:
        """Sets v and g behind it."""


class effective_weight:  # noqa: N801 - reads as what it makes of a class attribute
    """An attribute that reads as the effective weight of its name, and sets v and g."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, layer: Owner | None, owner: type | None = None) -> Tensor:
        if layer is None:
            raise AttributeError(f"{self.name} belongs to instances")
        return read_effective(layer, self.name)

    def __set__(self, layer: Owner, weight: Tensor) -> None:
        layer.assign(self.name, weight)


def read_effective(layer: Owner, name: str) -> Tensor:
    """The effective weight for a caller: a write into it reaches v and g."""
    weight = layer.effective(name)
    if torch.compiler.is_compiling() or in_transform():
        return weight
    return EffectiveWeight.wrap(
        weight, lambda new: layer.assign(name, new), f"{type(layer).__name__}.{name}"
    )


class _LikeAnyTensor(torch._C._TensorMeta):
    """Lets ``torch.testing.assert_close``, which asks how types are related, compare any tensor."""

    def __instancecheck__(self, instance: Any) -> bool:
        return isinstance(instance, Tensor)


class EffectiveWeight(Tensor, metaclass=_LikeAnyTensor):
    """A weight that reports in-place writes to the layer it came from.

    Views and ``.data`` report too, and what numpy sees cannot be written to; every other result of
    an operation is an ordinary tensor. Autograd goes through it as through any tensor.
    """

    _whole: Tensor
    _assign: Assign
    _owner: str

    @classmethod
    def wrap(cls, whole: Tensor, assign: Assign, owner: str) -> Tensor:
        """``whole`` as an effective weight; ``assign`` receives it after each write."""
        return _guard(whole, whole.detach(), assign, owner)

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            given = [(t, t._version, t.data_ptr()) for t in _guarded((*args, *kwargs.values()))]
            result = func(*args, **kwargs)
            for tensor, version, pointer in given:
                if tensor.data_ptr() != pointer:
                    raise UsageError(
                        f"{tensor._owner} is computed from v and g and has no storage to replace; "
                        "assign the new weight to the attribute itself"
                    )
                if tensor._version != version:
                    _hand_over(tensor, by_initialiser=_initialises(func))
            return _guard_views(result, given[0][0]) if given else result

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._whole.clone().__reduce_ex__(protocol)


def _guard(tensor: Tensor, whole: Tensor, assign: Assign, owner: str) -> EffectiveWeight:
    guarded = tensor.as_subclass(EffectiveWeight)
    guarded._whole, guarded._assign, guarded._owner = whole, assign, owner
    return guarded


def _guarded(values: Sequence[Any]) -> Iterator[EffectiveWeight]:
    """The effective weights among arguments, also in lists of them (``torch._foreach_*``)."""
    for value in values:
        if type(value) is EffectiveWeight:
            yield value
        elif isinstance(value, list | tuple):
            yield from _guarded(value)


def _initialises(func: Callable[..., Any]) -> bool:
    return getattr(func, "__module__", None) == "torch.nn.init"


def _hand_over(tensor: EffectiveWeight, by_initialiser: bool) -> None:
    # Initialisers write without grad even where it is on.
    if torch.is_grad_enabled() and tensor.requires_grad and not by_initialiser:
        raise UsageError(
            f"{tensor._owner} is computed from v and g: change it in place under torch.no_grad(), "
            "or assign to it"
        )
    tensor._assign(tensor._whole)


def _guard_views(result: Any, source: EffectiveWeight) -> Any:
    if isinstance(result, list | tuple) and type(result) in (list, tuple):
        return type(result)(_guard_views(part, source) for part in result)
    if isinstance(result, np.ndarray) and result.base is not None:  # no copy
        result.flags.writeable = False
    if not isinstance(result, Tensor) or type(result) is EffectiveWeight:
        return result
    if result.layout is not torch.strided or not result.numel():
        return result
    if result.untyped_storage().data_ptr() != source._whole.untyped_storage().data_ptr():
        return result
    return _guard(result, source._whole, source._assign, source._owner)
