"""What ``layer.weight`` returns: a tensor through which a write reaches v and g.

The computed weight is computed, so an initialiser that fills it in place would fill a temporary
and be lost without a word. ``ComputedWeight`` notices: whatever writes into it, or into a view of
it, is handed to the layer, which splits the new values into v and g. A weight that was read before
v or g changed is refused there, since it would undo that change. numpy writes without telling: its
arrays of it are read-only. What gets hold of the memory in another way (DLPack, an address) holds a
copy. A hook on the weight sees the gradient of what is computed from that reading, not the layer's.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wnrl.errors import UsageError
from wnrl.nn.functional import in_transform, same_values


def read_computed(layer: Any, name: str) -> Tensor:
    """Return a computed weight of ``layer`` for a caller: a write into it reaches v and g."""
    if torch.compiler.is_compiling() or in_transform():
        return layer.compute_weight(name)
    grad = torch.is_grad_enabled()
    # A tensor made in inference mode counts no writes.
    with torch.inference_mode(False), torch.set_grad_enabled(grad):
        weight = layer.compute_weight(name)
        return _guard(weight, _Origin(layer, name, weight.detach()))


class _Origin:
    """What all views of one reading share: the layer, and the values that it was read from."""

    def __init__(self, layer: Any, name: str, whole: Tensor) -> None:
        self.layer, self.name, self.whole = layer, name, whole
        self._read_from = [part.clone() for part in self._pair()]

    def __str__(self) -> str:
        return f"{type(self.layer).__name__}.{self.name}"

    def _pair(self) -> list[Tensor]:
        return [getattr(self.layer, self.name + end).detach() for end in ("_v", "_g")]

    def hand_over(self) -> None:
        """Give the layer what was written."""
        if not all(map(same_values, self._pair(), self._read_from)):
            raise UsageError(
                f"{self} has changed since it was read, which this write would undo: read it again"
            )
        self.layer.assign(self.name, self.whole)
        self._read_from = [part.clone() for part in self._pair()]


def read_from(weight: Tensor, layer: Any, name: str) -> list[Tensor] | None:
    """Return the v and g that ``weight`` was read from, where it is that of ``layer``, unchanged.

    ``torch.func.functional_call`` assigns it so, to restore what it had replaced.
    """
    origin = weight._origin if type(weight) is ComputedWeight else None
    if origin is None or origin.layer is not layer or origin.name != name:
        return None
    return origin._read_from if same_values(weight.detach(), origin.whole) else None


class _LikeAParameter(torch._C._TensorMeta):
    """Lets ``torch.testing.assert_close``, which asks how types are related, compare the two."""

    def __instancecheck__(self, instance: Any) -> bool:
        return super().__instancecheck__(instance) or isinstance(instance, nn.Parameter)


class ComputedWeight(Tensor, metaclass=_LikeAParameter):
    """A weight that reports in-place writes to the layer it came from.

    Views and ``.data`` report too, and what numpy sees cannot be written to; every other result of
    an operation is an ordinary tensor. Autograd goes through it as through any tensor.
    """

    _origin: _Origin

    @property
    def _is_param(self) -> bool:
        """Whether it is a parameter; ``nn.Parameter`` sets it for a tensor that is no plain one."""
        return False

    @_is_param.setter
    def _is_param(self, _: bool) -> None:
        raise UsageError(
            f"{self._origin} is computed from v and g and can be no parameter: "
            "nn.Parameter(layer.weight.detach().clone()) copies its values"
        )

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
                    raise _no_storage(tensor)
                if tensor._version != version:
                    by_initialiser = getattr(func, "__module__", None) == "torch.nn.init"
                    _hand_over(tensor, by_initialiser)
            return _guard_views(result, given[0][0]) if given else result

    def set_(self, *_: Any, **__: Any) -> Any:
        """Refused: torch does not tell of it."""
        raise _no_storage(self)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._values().__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return copy.deepcopy(self._values(), memo)

    def _values(self) -> Tensor:
        """An ordinary tensor of the same values, without graph."""
        with torch._C.DisableTorchFunctionSubclass():
            return self.detach().clone()


def _no_storage(tensor: ComputedWeight) -> UsageError:
    return UsageError(
        f"{tensor._origin} is computed from v and g and has no storage to replace; "
        "assign the new weight to the attribute itself"
    )


def _guard(tensor: Tensor, origin: _Origin) -> ComputedWeight:
    guarded = tensor.as_subclass(ComputedWeight)
    guarded._origin = origin
    return guarded


def _guarded(values: Sequence[Any]) -> Iterator[ComputedWeight]:
    """The computed weights among arguments, also in lists of them (``torch._foreach_*``)."""
    for value in values:
        if type(value) is ComputedWeight:
            yield value
        elif isinstance(value, list | tuple):
            yield from _guarded(value)


def _hand_over(tensor: ComputedWeight, by_initialiser: bool) -> None:
    # Initialisers write without grad even where it is on.
    if torch.is_grad_enabled() and tensor.requires_grad and not by_initialiser:
        raise UsageError(
            f"{tensor._origin} is computed from v and g: change it in place under torch.no_grad(), "
            "or assign to it"
        )
    tensor._origin.hand_over()


def _guard_views(result: Any, source: ComputedWeight) -> Any:
    if isinstance(result, list | tuple) and type(result) in (list, tuple):
        return type(result)(_guard_views(part, source) for part in result)
    if isinstance(result, np.ndarray) and result.base is not None:  # no copy
        result.flags.writeable = False
    if not isinstance(result, Tensor) or type(result) is ComputedWeight:
        return result
    if result.layout is not torch.strided or not result.numel():
        return result
    if result.untyped_storage().data_ptr() != source._origin.whole.untyped_storage().data_ptr():
        return result
    return _guard(result, source._origin)
