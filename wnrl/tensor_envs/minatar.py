"""What the tensor forms of MinAtar's five games (Young & Tian, 2019, arXiv:1903.03176) share.

The rules are the paper's, in the details those that the package ``minatar`` was seen to follow. A
picture is ``(C, 10, 10)``, 1 where something is and 0 elsewhere, a channel for each kind of thing,
in the package's order. Numbers in a state are whole, and have the uniforms' dtype. With probability
0.1 the last action is repeated instead of the new one.
"""

import functools

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

SIZE = 10
STICKY = 0.1
MAX_EPISODE_STEPS = 5000


def picture_space(n_channels: int) -> spaces.Box:
    """Return the space of pictures with ``n_channels`` channels."""
    return spaces.Box(0, 1, (n_channels, SIZE, SIZE), np.float32)


def stick(actions: Tensor, last_actions: Tensor, u: Tensor) -> Tensor:
    """Return the last action where the uniform ``u`` is below 0.1, else the new one; all ``(*B)``.

    Actions are numbers of the smallest set of actions, in u's dtype.
    """
    return torch.where(u < STICKY, last_actions, actions.to(u.dtype))


def constant(values: tuple[float, ...], like: Tensor) -> Tensor:
    """Return ``values`` with the dtype and the device of ``like``; never to be written to.

    It is made once, since a copy from the host cannot be captured in a CUDA graph.
    """
    return _constant(values, like.dtype, like.device)


@functools.cache
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


def cells(like: Tensor, start: int = 0, stop: int = SIZE) -> Tensor:
    """Return the numbers of a row's cells, with the dtype and the device of ``like``."""
    return constant(tuple(range(start, stop)), like)


def on_axis(places: Tensor, axis: Tensor) -> Tensor:
    """Return where ``axis`` ``(n)`` equals ``places`` ``(*B)``, as bool ``(*B, n)``."""
    return places.unsqueeze(-1) == axis
