"""What is made of tensors with one row a member: copies, parts, and several as one."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from wnrl.errors import as_usage_error

ALL = slice(None)
"""Of the members."""


class Agents(NamedTuple):
    """All that acting depends on."""

    params: Tensor
    """``(P, D)``."""
    buffers: Tensor
    """Running statistics of the networks, ``(P, D')``."""
    statistics: dict[str, Tensor]
    """Those of observations and returns, ``(P, ...)``, see ``Scaling``."""


def clone(tree: Any) -> Any:
    """Return a copy, no tensor of which is a view of another."""
    return pytree.tree_map_only(Tensor, torch.clone, tree)


def copy_(place: Any, tree: Any) -> None:
    """Copy each tensor of ``tree`` into its place, a tree of tensors alike."""
    pytree.tree_map_(Tensor.copy_, place, tree)


def put_back_(places: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Copy what a state has under the names of places into them.

    Raises:
        UsageError: it lacks one, or has another shape.
    """
    what = "the state is of another version or cohort"
    with as_usage_error(what, LookupError, ValueError, RuntimeError):
        copy_(places, {name: state[name] for name in places})


def part(tree: Any, members: slice) -> Any:
    """Return the rows of some members, views; what is no tensor is the same for all."""
    return pytree.tree_map_only(Tensor, lambda rows: rows[members], tree)


def joined(trees: Sequence[Any]) -> Any:
    """Return the rows of all, one after the other."""
    return pytree.tree_map(lambda *rows: torch.cat(rows), *trees)


def axes(tree: Any) -> Any:
    """Return the axis of members of each tensor as ``vmap`` takes it, 0, and None of all else."""
    return pytree.tree_map(lambda leaf: 0 if isinstance(leaf, Tensor) else None, tree)
