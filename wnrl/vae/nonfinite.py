"""Which tensor became NaN or infinite first, found by doing a step again and looking everywhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Witness:
    """Writes down, in the order in which they appear, which tensors of a step are finite.

    Args:
        model: the network whose step is watched.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.seen: list[tuple[str, Tensor]] = []

    def look(self, name: str, t: Tensor) -> None:
        """Writes down whether ``t`` is finite."""
        if t.is_floating_point():
            self.seen.append((name, t.detach().isfinite().all()))

    def look_at_parameters(self) -> None:
        """Writes down what is finite of the parameters and buffers."""
        for name, parameter in self.model.named_parameters():
            self.look(f"parameter {name}", parameter)
        for name, buffer in self.model.named_buffers():
            self.look(f"buffer {name}", buffer)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Looks at the output of every layer, at its gradient, and at those of parameters."""
        handles: list[Any] = []

        def after(name: str, output: Any) -> None:
            for t in output if isinstance(output, tuple) else (output,):
                if isinstance(t, Tensor):
                    self.look(f"output of {name}", t)
                    if t.requires_grad:
                        t.register_hook(lambda g: self.look(f"gradient of the output of {name}", g))

        def on_gradient(name: str, parameter: Tensor) -> None:
            assert parameter.grad is not None
            self.look(f"gradient of {name}", parameter.grad)

        for name, layer in self.model.named_modules():
            if not any(True for _ in layer.children()):
                handles.append(
                    layer.register_forward_hook(lambda _, __, out, name=name: after(name, out))
                )
        for name, parameter in self.model.named_parameters():
            handles.append(
                parameter.register_post_accumulate_grad_hook(
                    lambda p, name=name: on_gradient(name, p)
                )
            )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def first(self) -> str | None:
        """Return the name of the first tensor that was not finite, and forget all."""
        seen, self.seen = self.seen, []
        if not seen:
            return None
        finite = torch.stack([flag for _, flag in seen]).tolist()
        return next((name for (name, _), good in zip(seen, finite, strict=True) if not good), None)
