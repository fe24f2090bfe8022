"""What ``layer.weight`` returns: a tensor through which a write reaches v and g.

The computed weight is computed, so an initialiser that fills it in place would fill a temporary
and be lost without a word. ``ComputedWeight`` notices: whatever writes into it, or into a view of
it, is handed to the layer, which splits the new values into v and g. A weight that was read before
v or g changed is refused there, since it would undo that change. numpy writes without telling: its
arrays of it are read-only. What gets hold of the memory in another way (DLPack, an address) holds a
copy.
"""

from collections.abc import Iterator, Sequence
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
        reading = _Origin(layer, name, weight.detach()).guard(weight)
    reading._is_whole = True
    return reading


class _Origin:
    """What all views of one reading share: the layer, and the values that it was read from."""

    def __init__(self, layer: Any, name: str, whole: Tensor) -> None:
        self.layer, self.name, self.whole = layer, name, whole
        self.read_from = [part.clone() for part in self._pair()]

    def __str__(self) -> str:
        return f"{type(self.layer).__name__}.{self.name}"

    def _pair(self) -> list[Tensor]:
        return [part.detach() for part in self.layer.pair(self.name)]

    def guard(self, tensor: Tensor) -> "ComputedWeight":
        """Return a view of the weight that reports writes."""
        guarded = tensor.as_subclass(ComputedWeight)
        guarded._origin = self
        return guarded

    def holds(self, tensor: Tensor) -> bool:
        """Return whether the values of ``tensor`` are in the memory of the weight."""
        return tensor.untyped_storage().data_ptr() == self.whole.untyped_storage().data_ptr()

    def check_flag(self, func: Any, reading: Tensor) -> None:
        """Raise UsageError for a hook, or for a ``requires_grad`` that v and g do not have."""
        learns = any(part.requires_grad for part in self.layer.pair(self.name))
        if func == Tensor.register_hook or reading.requires_grad != learns:
            raise UsageError(
                f"{self} is computed at each reading, and this would be lost with it: set it on "
                f"{self.name}_v and {self.name}_g"
            )

    def no_storage(self) -> UsageError:
        """Return the error for a write that would replace the memory of the weight."""
        return UsageError(
            f"{self} is computed from v and g and has no storage to replace; "
            "assign the new weight to the attribute itself"
        )

    def hand_over(self) -> None:
        """Give the layer what was written."""
        if not all(map(same_values, self._pair(), self.read_from)):
            raise UsageError(
                f"{self} has changed since it was read, which this write would undo: read it again"
            )
        self.layer.assign(self.name, self.whole)
        self.read_from = [part.clone() for part in self._pair()]


def read_from(weight: Tensor, layer: Any, name: str) -> list[Tensor] | None:
    """Return the v and g that ``weight`` was read from, where it is that of ``layer``, unchanged.

    ``torch.func.functional_call`` assigns it so, to restore what it had replaced.
    """
    origin = weight._origin if type(weight) is ComputedWeight else None
    if origin is None or origin.layer is not layer or origin.name != name:
        return None
    return origin.read_from if same_values(weight.detach(), origin.whole) else None


SETTERS: Any = (
    Tensor.register_hook,
    Tensor.requires_grad_,
    vars(torch._C.TensorBase)["requires_grad"].__set__,
)
"""What sets something of a tensor that would be gone with the next reading."""


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
    _is_whole = False
    """Whether it is what the layer gave out, and no view of it."""

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
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            given = [(t, t._origin, t._version) for t in _guarded((*args, *kwargs.values()))]
            result = func(*args, **kwargs)
            for tensor, origin, version in given:
                if not origin.holds(tensor):
                    raise origin.no_storage()
                if tensor._is_whole and func in SETTERS:
                    origin.check_flag(func, tensor)
                if tensor._version != version:
                    # Initialisers write without grad even where it is on.
                    by_initialiser = getattr(func, "__module__", None) == "torch.nn.init"
                    if torch.is_grad_enabled() and tensor.requires_grad and not by_initialiser:
                        raise UsageError(
                            f"{origin} is computed from v and g: change it in place under "
                            "torch.no_grad(), or assign to it"
                        )
                    origin.hand_over()
            return _guard_views(result, given[0][1]) if given else result

    def set_(self, *_: Any, **__: Any) -> Any:
        """Refused: torch does not tell of it."""
        raise self._origin.no_storage()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.__deepcopy__({}).__reduce_ex__(protocol)

    def __deepcopy__(self, _: dict[int, Any]) -> Tensor:
        """An ordinary tensor of the same values, without graph."""
        with torch._C.DisableTorchFunctionSubclass():
            return self.detach().clone()


def _guarded(values: Sequence[Any]) -> Iterator[ComputedWeight]:
    """The computed weights among arguments, also in lists of them (``torch._foreach_*``)."""
    for value in values:
        if type(value) is ComputedWeight:
            yield value
        elif isinstance(value, list | tuple):
            yield from _guarded(value)


def _guard_views(result: Any, origin: _Origin) -> Any:
    if type(result) in (list, tuple):
        return type(result)(_guard_views(part, origin) for part in result)
    if isinstance(result, np.ndarray) and result.base is not None:  # no copy
        result.flags.writeable = False
    if not isinstance(result, Tensor) or result.layout is not torch.strided:
        return result
    return origin.guard(result) if origin.holds(result) else result
