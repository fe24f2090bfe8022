"""One optimizer step: the gradients before it, and how far the weights move."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from wnrl.diagnostics.state import hooked
from wnrl.diagnostics.weights import effective_weights, named_layers, relative_change


def gradient_norms(module: nn.Module) -> dict[str, Tensor]:
    """Return the length of each layer's gradient, to be asked for between backward and clipping.

    Returns:
        From a layer's name to the length of the gradient of all its own parameters (v, g and bias
        of a weight-normalized layer) as one vector, a scalar. A parameter that no layer of
        ``module`` holds, but ``module`` itself, has its own name. Layers without a gradient are
        left out.
    """
    return _by_layer(
        module, {p: _length(p.grad) for p in module.parameters() if p.grad is not None}
    )


def _length(grad: Tensor) -> Tensor:
    values = grad.coalesce().values() if grad.is_sparse else grad
    return torch.linalg.vector_norm(values.detach())


def _by_layer(module: nn.Module, lengths: Mapping[Tensor, Tensor]) -> dict[str, Tensor]:
    owners = {
        parameter: path or name
        for path, layer in named_layers(module)
        for name, parameter in layer.named_parameters(recurse=False)
    }
    squares: dict[str, Tensor] = {}
    for parameter, owner in owners.items():
        if (length := lengths.get(parameter)) is not None:
            squares[owner] = squares.get(owner, torch.zeros_like(length)) + length.square()
    return {owner: square.sqrt() for owner, square in squares.items()}


@dataclass
class Step:
    """The step that ``first_step`` sees."""

    done: bool = False
    """Whether there was one."""
    gradient_norms: dict[str, Tensor] = field(default_factory=dict)
    """As ``gradient_norms`` returns them, before clipping; those of the last backward count."""
    relative_change: dict[str, Tensor] = field(default_factory=dict)
    """‖Δw‖/‖w‖ of each effective weight, with what hooks of the optimizer did to the weights behind
    it, such as a projection."""


@contextmanager
def first_step(module: nn.Module, optimizer: Optimizer) -> Iterator[Step]:
    """See the first step that ``optimizer`` takes inside, in a loop that is someone else's.

    A loop of one's own calls ``gradient_norms`` and ``effective_weights``. Nothing is changed, and
    nothing is brought to the host.

    Args:
        module: has the layers to see; those without a parameter in ``optimizer`` are left out.
        optimizer: the optimizer, of any kind.
    """
    held = {p for group in optimizer.param_groups for p in group["params"]}
    step = Step()
    lengths: dict[Tensor, Tensor] = {}
    before: dict[str, Tensor] = {}

    def on_gradient(parameter: Tensor) -> None:
        if not step.done and parameter.grad is not None:
            lengths[parameter] = _length(parameter.grad)

    def before_step(*_: Any) -> None:
        if not step.done:
            before.update(effective_weights(module, held))

    def after_step(*_: Any) -> None:
        if not step.done:
            step.done = True
            step.relative_change = relative_change(before, effective_weights(module, held))
            step.gradient_norms = _by_layer(module, lengths)
            before.clear()

    trained = [p for p in module.parameters() if p in held and p.requires_grad]
    with (
        hooked("post_accumulate_grad", dict.fromkeys(trained, on_gradient)),
        hooked("step_pre", {optimizer: before_step}),
        hooked("step_post", {optimizer: after_step}),
    ):
        yield step
