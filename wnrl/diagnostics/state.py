"""A look at a network that someone else trains, without a trace in its training."""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@contextmanager
def hooked(kind: str, hooks: Mapping[Any, Callable[..., None]]) -> Iterator[None]:
    """Have torch call functions inside, and never outside.

    Args:
        kind: of the hooks: ``"forward"``, ``"post_accumulate_grad"``, ``"step_post"``, ….
        hooks: from modules, parameters or optimizers to what is called with them.
    """
    handles = [getattr(owner, f"register_{kind}_hook")(hook) for owner, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def preserve_state(module: nn.Module) -> Iterator[None]:
    """Put back, at the end, all that a look at ``module`` may change without being asked to.

    Those are the mode of each module, every buffer (running statistics, the vectors of spectral
    norm) and the random generators of Python, NumPy and torch, on the CPU and on the devices of
    ``module``. Parameters and their gradients are not kept: what runs inside must leave them alone.
    """
    modes = [(part, part.training) for part in module.modules()]
    buffers = [
        (part._buffers, name, buffer, buffer.clone())
        for part in module.modules()
        for name, buffer in part._buffers.items()
        if buffer is not None
    ]
    numpy_state = np.random.get_state()  # noqa: NPY002 (SB3's buffers draw from this generator)
    python_state = random.getstate()
    tensors = [*module.parameters(), *module.buffers()]
    devices = {tensor.device for tensor in tensors if tensor.device.type != "cpu"}
    kind = next(iter(devices)).type if devices else "cuda"
    with torch.random.fork_rng([device.index or 0 for device in devices], device_type=kind):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002
            with torch.no_grad():
                for owner, name, buffer, value in buffers:
                    owner[name] = buffer.copy_(value)  # the same tensor: targets share it
            for part, training in modes:
                part.training = training


def to_floats(scalars: Mapping[str, Tensor]) -> dict[str, float]:
    """Return numbers of all scalars, in one copy: a GPU is waited for once.

    Args:
        scalars: tensors of one element on one device; types may differ.
    """
    if not scalars:
        return {}
    stacked = torch.stack([value.detach().reshape(()) for value in scalars.values()])
    return dict(zip(scalars, stacked.tolist(), strict=True))
