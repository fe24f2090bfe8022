"""``torch.compile`` where it works, and the plain function where it does not."""

import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

COMPILER = ("torch._dynamo", "torch._inductor", "torch._functorch")
REMARKS = (
    "The .grad attribute of a Tensor that is not",  # tracing looks at gradients of inputs
    "TensorFloat32 tensor cores",  # they are off on purpose
    r"\s*Online softmax is disabled",
)
"""Warnings of the compiler that nobody can act on."""
HALF = re.compile(r"(/\S+\.so): file too short")
"""What is in torch's cache, and would be loaded for ever, where Ctrl-C ended a compiler."""


def compiled(
    plain: Callable[..., Any],
    name: str,
    *,
    graphs: bool = False,
    fullgraph: bool = False,
    backend: str | Callable[..., Any] = "inductor",
) -> Callable[..., Any]:
    """Return ``plain``, compiled at its first call.

    Where tracing or compiling fails, one line on stderr says so, and from then on ``plain`` itself
    is called. Numbers agree to rounding, not bit for bit. Errors of ``plain`` itself are raised.

    Args:
        plain: a function of tensors.
        name: what the line on stderr calls it.
        graphs: capture CUDA graphs; ``plain`` works on a GPU then. Tensors that it returns are
            copies, since the next replay of a graph writes over its outputs.
        fullgraph: take a break of the graph for a failure.
        backend: of ``torch.compile``; inductor makes code, aot_eager and eager only trace.
    """
    options: dict[str, Any] = {"mode": "reduce-overhead"} if graphs else {}
    chosen = torch.compile(plain, backend=backend, fullgraph=fullgraph, **options)

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal chosen
        if chosen is plain or torch.compiler.is_compiling():  # a part of something compiled
            return plain(*args, **kwargs)
        try:
            with warnings.catch_warnings():
                for remark in REMARKS:
                    warnings.filterwarnings("ignore", remark)
                outputs = chosen(*args, **kwargs)
        except Exception as error:
            if not type(error).__module__.startswith(COMPILER):
                raise
            if (half := HALF.search(str(error))) and Path(half[1]).is_file():
                Path(half[1]).unlink()
                return call(*args, **kwargs)
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
            print(f"--compile: {name} is not compiled: {reason}", file=sys.stderr)
            chosen = plain
            return plain(*args, **kwargs)
        return pytree.tree_map_only(torch.Tensor, torch.clone, outputs) if graphs else outputs

    return call
