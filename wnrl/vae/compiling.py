"""``torch.compile`` for training, and going on without it where it fails."""

from collections.abc import Callable
from typing import Any, cast

import torch

from wnrl.vae.config import VAEConfig
from wnrl.vae.model import VAE

REFUSED = {"dreg": "objective dreg takes the model apart"}


def compiled(
    model: VAE, config: VAEConfig, tell: Callable[[str], None], backend: str = "inductor"
) -> VAE:
    """What trains in the place of ``model``: its ``forward``, compiled at the first call.

    The model itself stays plain, for whatever else sees it. Numbers agree to rounding, not bit for
    bit. On a GPU, CUDA graphs are captured, unless samples go through in chunks: the next replay of
    a graph writes over what the one before gave.

    Args:
        model: on its device.
        config: the run.
        tell: gets one line where something is not compiled.
        backend: of ``torch.compile``.
    """
    if config.objective in REFUSED:
        tell(f"--compile: not compiled: {REFUSED[config.objective]}")
        return model
    graphs = next(model.parameters()).device.type == "cuda" and config.train_chunk is None
    return cast(VAE, _Compiled(model, tell, backend, graphs and backend == "inductor"))


class _Compiled:
    """Called like a model; its attributes are the model's."""

    def __init__(self, model: VAE, tell: Callable[[str], None], backend: str, graphs: bool) -> None:
        self.model, self.tell, self.graphs = model, tell, graphs
        options: dict[str, Any] = {"mode": "reduce-overhead"} if graphs else {}
        compiled = torch.compile(model.forward, backend=backend, **options)
        self.forward: Callable[..., Any] | None = compiled

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(self, *args: Any) -> Any:
        if self.forward is None:
            return self.model(*args)
        if self.graphs:
            torch.compiler.cudagraph_mark_step_begin()
        try:
            return self.forward(*args)
        except Exception as error:
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
            self.tell(f"--compile: not compiled, training goes on without: {reason}")
            self.forward = None
            return self.model(*args)
