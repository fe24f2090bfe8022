"""What an optimizer keeps for one parameter: checked, copied and brought to its type."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from wnrl.errors import UsageError


def check_groups(transposed: int) -> None:
    """Raises UsageError unless ``transposed``, the option of a parameter group, is a count."""
    if not isinstance(transposed, int) or transposed < 0:
        raise UsageError(f"transposed must be 0 or a number of groups, got {transposed!r}")


def check_shapes(where: str, state: dict[str, Any], like: Tensor) -> None:
    """Raises UsageError for a tensor, but a counter, of another shape than ``like``."""
    for key, value in state.items():
        if isinstance(value, Tensor) and value.dim() and value.shape != like.shape:
            raise UsageError(
                f"{key} of {where} must have shape {tuple(like.shape)}, got {tuple(value.shape)}: "
                "the state was saved for another network"
            )


def check_pair(where: str, state: dict[str, Any], own: dict[str, Any], kind: str) -> None:
    """Raises UsageError where ``state`` cannot be that of a weight whose state is ``own``.

    Args:
        where: whose state it is.
        state: to be loaded.
        own: what the optimizer has.
        kind: its name.
    """
    if "v" not in state and "g" not in state:
        raise UsageError(
            f"the state of {where} has no v and g: it was saved by another optimizer than {kind}"
        )
    for key in ("v", "g"):
        if key not in state:
            raise UsageError(f"the state of {where} lacks {key}")
        check_shapes(where, {key: state[key]}, own[key])
    for key in ("v", "g"):
        if f"{key}_state" not in state:
            raise UsageError(f"the state of {where} lacks {key}_state")
        check_shapes(f"{key} of {where}", state[f"{key}_state"], own[key])


def with_own_pair(state: dict[str, Any]) -> dict[str, Any]:
    """The state with copies of v and g, which are views of longer tensors."""
    return {**state, **{key: state[key].clone() for key in ("v", "g") if key in state}}


def alike(state: dict[str, Any], values: Tensor) -> dict[str, Any]:
    """The state on the device of ``values`` and in their type, but for counters, as torch loads."""

    def brought(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.dim():
            return value
        both_real = value.is_floating_point() and values.is_floating_point()
        return value.to(values.device, values.dtype if both_real else value.dtype)

    return {key: brought(value) for key, value in state.items()}


def described(params: Iterable[Tensor]) -> list[Any]:
    """What tells parameters from others, and from themselves before they moved."""
    return [(id(w), w.dtype, w.device) for w in params]
