"""What the base optimizer of a weight-normalizing one is told, and how it is called."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from wnrl.optim.blocks import Block, Kind

GROUP_DEFAULTS: dict[str, Any] = {"weight_norm": True, "transposed": 0, "g_lr_scale": 1.0}
"""What a parameter group may say beside the options of the base optimizer."""
_OUTER_KEYS = {"params", "param_names", *GROUP_DEFAULTS}


def treats_alike(group: dict[str, Any]) -> bool:
    """Whether v, g and plain parameters are stepped on alike."""
    return not group.get("weight_decay") and group["g_lr_scale"] == 1


def inner_groups(
    group: dict[str, Any], blocks: list[Block], loose: list[Tensor], plain_steps: dict[str, Any]
) -> list[dict[str, Any]]:
    """The groups of the base optimizer: one if it may treat v, g and the rest alike.

    Args:
        group: of the optimizer.
        blocks: of its parameters.
        loose: those that are in no block.
        plain_steps: options with which the base optimizer chooses its kernel by itself.
    """
    options = {name: value for name, value in group.items() if name not in _OUTER_KEYS}
    members: dict[Kind, list[Tensor]] = {"v": [], "g": [], "plain": []}
    for kind, values in (lane for block in blocks for lane in block.lanes()):
        members[kind].append(values)
    special = [w for w in loose if plain_steps and not _fits_every_kernel(w)]
    fitting = [w for w in loose if not plain_steps or _fits_every_kernel(w)]
    of_g = {"weight_decay": 0.0, "lr": group["lr"] * group["g_lr_scale"]}
    found: list[tuple[dict[str, Any], list[Tensor]]] = [
        ({}, members["plain"] + fitting),
        (plain_steps, special),
        ({"weight_decay": 0.0}, members["v"]),
        (of_g, members["g"]),
    ]
    return [{**options, **change, "params": params} for change, params in found if params]


def _fits_every_kernel(w: Tensor) -> bool:
    """Whether fused steps take ``w``, which is neither complex nor has a sparse gradient."""
    return not w.is_complex() and (w.grad is None or w.grad.layout is torch.strided)


def fastest(base: type[Optimizer]) -> dict[str, bool]:
    """One kernel launch for many tensors, where ``base`` has it; the numbers stay."""
    known = inspect.signature(base).parameters
    if "fused" in known:
        return {"fused": True}
    return {"foreach": True} if "foreach" in known else {}


def bare_step(optimizer: Optimizer) -> Callable[[], Any]:
    """``optimizer.step`` without torch's hooks, which are for the one that the user has."""
    step: Any = type(optimizer).step
    return functools.partial(step.__wrapped__ if hasattr(step, "hooked") else step, optimizer)
