"""Parameter groups, and the projection after each step."""

from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from wnrl.errors import UsageError, check_positive
from wnrl.nn.functional import transposed_groups
from wnrl.nn.projection import project_, projected_weights


def param_groups(
    module: nn.Module, lr: float, weight_decay: float = 0.0, g_lr_scale: float = 1.0
) -> list[dict[str, Any]]:
    """Parameter groups in which only plain weights decay.

    Weight decay on v only raises the effective learning rate and on g shrinks w; biases and the
    scales of normalizers have one axis and do not decay either. The groups suit any optimizer: for
    a converted network, g has a group of its own; for a plain one, the weight-normalizing
    optimizers of this module read from them the learning rate of g, and which convolutions are
    transposed.

    Args:
        module: a plain or a converted network.
        lr: learning rate.
        weight_decay: for plain weights, with two axes or more.
        g_lr_scale: factor on the learning rate of g.

    Returns:
        Groups with each parameter of ``module`` once; groups without members are left out.

    Raises:
        UsageError: ``lr`` or ``g_lr_scale`` is not above zero, or ``weight_decay`` is below.
    """
    check_positive(lr=lr, g_lr_scale=g_lr_scale)
    if weight_decay < 0:
        raise UsageError(f"weight_decay must not be below zero, got {weight_decay!r}")
    shared = {"lr": lr, "weight_decay": 0.0, "weight_norm": False}
    lengths: dict[str, Any] = {**shared, "lr": lr * g_lr_scale, "params": []}
    undecayed: dict[str, Any] = {**shared, "params": []}
    weights: dict[int, dict[str, Any]] = {}
    seen: set[int] = set()
    for layer in module.modules():
        own = dict(layer.named_parameters(recurse=False))
        for name, parameter in own.items():
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            stem, _, part = name.rpartition("_")
            if part in ("g", "v") and f"{stem}_g" in own and f"{stem}_v" in own:
                (lengths if part == "g" else undecayed)["params"].append(parameter)
            elif parameter.dim() < 2:
                undecayed["params"].append(parameter)
            else:
                groups = transposed_groups(layer)
                plain = {"lr": lr, "weight_decay": weight_decay, "g_lr_scale": g_lr_scale}
                group = weights.setdefault(groups, {**plain, "transposed": groups, "params": []})
                group["params"].append(parameter)
    return [group for group in (*weights.values(), undecayed, lengths) if group["params"]]


class ProjectionHook:
    """What ``project_after_step`` registers: ``project_(module)`` after each step; picklable."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Called by torch after ``optimizer.step``."""
        project_(self.module)


def project_after_step(optimizer: Optimizer, module: nn.Module) -> RemovableHandle:
    """Puts the marked rows of ``module`` back on the unit sphere after each step.

    Args:
        optimizer: the one that trains ``module``.
        module: converted with ``convert(module, "projected")``.

    Returns:
        A handle whose ``remove()`` ends it.

    Raises:
        UsageError: no layer of ``module`` is marked, so that nothing would happen.
    """
    if not projected_weights(module):
        raise UsageError('module has no projected layers: call convert(module, "projected") first')
    return optimizer.register_step_post_hook(ProjectionHook(module))
