"""Which tensor became NaN or infinite first, found by doing a step again and looking everywhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from wnrl.diagnostics.state import hooked


class Witness:
    """Notes, in the order in which they appear, which tensors of a step are finite.

    Args:
        model: the network whose step is watched.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.notes: list[tuple[str, Tensor]] = []

    def look(self, name: str, t: Tensor | None) -> None:
        """Note whether ``t`` is finite."""
        if t is not None and t.is_floating_point():
            self.notes.append((name, t.detach().isfinite().all()))

    def look_at_gradients(self) -> None:
        """Note what is finite of the parameters' gradients."""
        for name, parameter in self.model.named_parameters():
            self.look(f"gradient of {name}", parameter.grad)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, look at the output of every layer, and at its gradient."""

        def after(name: str, module: nn.Module, args: Any, output: Any) -> None:
            for t in output if isinstance(output, tuple) else (output,):
                if isinstance(t, Tensor):
                    self.look(f"output of {name}", t)
                    if t.requires_grad:
                        t.register_hook(lambda g: self.look(f"gradient of the output of {name}", g))

        parts = self.model.named_modules()
        with hooked("forward", {p: partial(after, name) for name, p in parts if not p._modules}):
            yield

    def first(self) -> str | None:
        """Return the name of the first tensor that was not finite, and forget all.

        Behind those of the steps stand the parameters and buffers as they are now.
        """
        for name, parameter in self.model.named_parameters():
            self.look(f"parameter {name}", parameter)
        for name, buffer in self.model.named_buffers():
            self.look(f"buffer {name}", buffer)
        notes, self.notes = self.notes, []
        return next((name for name, finite in notes if not finite), None)
