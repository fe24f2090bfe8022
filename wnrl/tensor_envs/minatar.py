"""What the tensor forms of MinAtar's five games (Young & Tian, 2019, arXiv:1903.03176) share.

The rules are the paper's, in the details those that the package ``minatar`` was seen to follow.
With probability 0.1 the last action is repeated instead of the new one. A picture is
``(C, 10, 10)``, 1 where something is and 0 elsewhere, a channel for each kind of thing, in the
package's order: what a network sees of Gymnasium's form, where 1 is 255.

A row of ten cells is a whole number: bit x is set where something is in column x. So a map of the
game is ten numbers, things move by shifts, and a picture is one look-up. Rows are int64; all other
numbers of a state are whole too, in the uniforms' dtype.
"""

import functools

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F

from wnrl.tensor_envs.core import Fixed

SIZE = 10
FULL_ROW = 2**SIZE - 1
STICKY = 0.1


class Game(Fixed):
    """What all games have."""

    max_episode_steps = 5000


def picture_space(n_channels: int) -> spaces.Box:
    """Return the space of pictures with ``n_channels`` channels."""
    return spaces.Box(0, 1, (n_channels, SIZE, SIZE), np.float32)


def stick(actions: Tensor, last_actions: Tensor, u: Tensor) -> Tensor:
    """Return the last action where the uniform ``u`` is below 0.1, else the new one; all ``(*B)``.

    Actions are numbers of the smallest set of actions, in u's dtype.
    """
    return torch.where(u < STICKY, last_actions, actions.to(u.dtype))


def move(actions: Tensor, by_action: tuple[int, ...]) -> Tensor:
    """Return the number that ``by_action`` has for each of the actions ``(*B)``."""
    return constant(by_action, actions).take(actions.long())


def equal(a: Tensor, b: Tensor | float) -> Tensor:
    """Return 1 where ``a`` equals ``b`` and 0 elsewhere, in their dtype: faster than bool."""
    return (a - b).eq_(0)


def cell(columns: Tensor) -> Tensor:
    """Return rows, in int64, with the cells in ``columns``, -1 to 10, set; -1 and 10 are none."""
    return ((1 << (columns.long() + 1)) >> 1) & FULL_ROW


def place(rows: Tensor, columns: Tensor, n_rows: int = SIZE) -> Tensor:
    """Return maps ``(*B, n_rows)``, in int64, with one cell set; -1 and 10 are no row or column."""
    index = torch.add(columns + (SIZE + 3), rows, alpha=SIZE + 2).long()
    return F.embedding(index, _single_cells(n_rows, rows.device))


def picture(maps: Tensor, like: Tensor) -> Tensor:
    """Return maps ``(*B, C, 10)`` as pictures ``(*B, C, 10, 10)`` in the dtype of ``like``."""
    return F.embedding(maps, _row_pictures(like.dtype, like.device))


def count(maps: Tensor, like: Tensor) -> Tensor:
    """Return how many cells of the rows ``(*B, n)`` are set, ``(*B)``, in the dtype of ``like``."""
    return F.embedding(maps, _row_counts(like.dtype, like.device)).sum((-1, -2))


def in_each(value: Tensor, u: Tensor) -> Tensor:
    """Return a copy of ``value`` for each environment, ``(*B, *value.shape)``; u is ``(*B, n)``."""
    return value.expand(*u.shape[:-1], *value.shape).clone()


def constant(values: tuple[float, ...], like: Tensor) -> Tensor:
    """Return ``values`` with the dtype and the device of ``like``; never to be written to.

    It is made once, since a copy from the host cannot be captured in a CUDA graph.
    """
    return _constant(values, like.dtype, like.device)


def one_to(n: int, like: Tensor) -> Tensor:
    """Return the numbers 1 to n as a ``constant``."""
    return constant(tuple(range(1, 1 + n)), like)


@functools.cache
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


@functools.cache
def _single_cells(n_rows: int, device: torch.device) -> Tensor:
    """Return the maps with a cell in row and column -1 to 10, one after the other."""
    with torch.inference_mode(False):
        maps = torch.zeros(SIZE + 2, SIZE + 2, n_rows, dtype=torch.int64)
        for row in range(n_rows):
            maps[row + 1, 1:-1, row] = 1 << torch.arange(SIZE)
        return maps.flatten(0, 1).to(device)


@functools.cache
def _row_pictures(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the ten cells of every row, ``(1024, 10)``."""
    with torch.inference_mode(False):
        rows = torch.arange(FULL_ROW + 1, device=device).unsqueeze(-1)
        return ((rows >> torch.arange(SIZE, device=device)) & 1).to(dtype)


@functools.cache
def _row_counts(dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return _row_pictures(dtype, device).sum(-1, keepdim=True)
