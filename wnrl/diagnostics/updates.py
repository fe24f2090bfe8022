"""What one optimizer step does: gradients as backward left them, and how far the weights move."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from wnrl.diagnostics.weights import layer_weights, named_layers, relative_change


class StepWatch:
    """Watches the next step of an optimizer, from outside of the loop that takes it.

    Gradients are seen when backward has accumulated them, so before a loop clips them; those that
    count are the last ones before the step. After the step the hooks do nothing, and ``close``
    takes them away. Nothing is changed, and nothing is brought to the host.

    Args:
        module: has the layers to watch; layers without a parameter in ``optimizer`` are left out.
        optimizer: the optimizer, of any kind.

    Attributes:
        done: whether there was a step.
        gradient_norms: after the step, from a layer's name to the length of the gradient of all its
            own parameters (v, g and bias of a weight-normalized layer) as one vector, a scalar. A
            parameter that no layer of ``module`` holds, but ``module`` itself, has its own name.
            Layers without a gradient are left out.
        relative_change: after the step, ‖Δw‖/‖w‖ of each effective weight over this one step, with
            what hooks of the optimizer did to the weights behind it, such as a projection.
    """

    def __init__(self, module: nn.Module, optimizer: Optimizer) -> None:
        self.gradient_norms: dict[str, Tensor] = {}
        self.relative_change: dict[str, Tensor] = {}
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        self._layers: dict[str, nn.Module] = {}
        self._owners: dict[nn.Parameter, str] = {}
        for path, layer in named_layers(module):
            for name, parameter in layer.named_parameters(recurse=False):
                if id(parameter) in held:
                    self._layers[path] = layer
                    self._owners[parameter] = path or name
        self._lengths: dict[Tensor, Tensor] = {}
        self._before: dict[str, Tensor] | None = None
        self.done = False
        trained = [p for p in self._owners if p.requires_grad]
        self._gradient_hooks: list[Any] = [
            parameter.register_post_accumulate_grad_hook(self._on_gradient) for parameter in trained
        ]
        self._step_hooks: list[Any] = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    def _on_gradient(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            grad = parameter.grad.detach()
            values = grad.coalesce().values() if grad.is_sparse else grad
            self._lengths[parameter] = torch.linalg.vector_norm(values)

    def _before_step(self, *_: Any) -> None:
        if not self.done:
            self._before = self._weights()

    def _after_step(self, *_: Any) -> None:
        if self.done or self._before is None:
            return
        self.done = True
        self.relative_change = relative_change(self._before, self._weights())
        squares: dict[str, Tensor] = {}
        for parameter, owner in self._owners.items():
            if (length := self._lengths.get(parameter)) is not None:
                squares[owner] = squares.get(owner, torch.zeros_like(length)) + length.square()
        self.gradient_norms = {owner: square.sqrt() for owner, square in squares.items()}
        self._forget()

    def _weights(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for path, layer in self._layers.items():
            found |= layer_weights(layer, path)
        return found

    def _forget(self) -> None:
        """Takes the hooks of backward away; those of the step cannot go while they run."""
        for hook in self._gradient_hooks:
            hook.remove()
        self._gradient_hooks, self._before, self._lengths = [], None, {}

    def close(self) -> None:
        """Takes all hooks away, whether there was a step or not."""
        self._forget()
        for hook in self._step_hooks:
            hook.remove()
        self._step_hooks = []
