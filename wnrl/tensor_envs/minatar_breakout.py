"""MinAtar's Breakout as torch code."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from gymnasium import spaces
from torch import Tensor

from wnrl.tensor_envs.core import State
from wnrl.tensor_envs.minatar import (
    MAX_EPISODE_STEPS,
    SIZE,
    cells,
    on_axis,
    picture_space,
    stick,
)

TOP_ROW, BOTTOM_ROW = 1, 4  # bricks are in rows 1, 2 and 3


@dataclass(frozen=True)
class Breakout:
    """``MinAtarBreakout-v1``: a ball that moves along diagonals, a paddle, three rows of bricks.

    A broken brick is worth 1, and the game ends when the paddle misses the ball. Actions: nothing,
    left, right. State: ``moving`` ``(*B, 9)`` has the ball's row and column, its speed along each,
    the paddle's column, whether the ball hit a brick in the last step, the ball's last row and
    column, and the last action; ``bricks`` is ``(*B, 3, 10)`` in bool.
    """

    observation_space: ClassVar[spaces.Box] = picture_space(4)
    action_space: ClassVar[spaces.Discrete] = spaces.Discrete(3)
    max_episode_steps: ClassVar[int] = MAX_EPISODE_STEPS
    reset_draws: ClassVar[int] = 1
    step_draws: ClassVar[int] = 1

    def reset(self, u: Tensor) -> State:
        """Return a ball at the left or the right wall, row 3, that falls towards the middle."""
        right = (u[..., 0] >= 0.5).to(u.dtype)
        column, zeros, ones = right * (SIZE - 1), torch.zeros_like(right), torch.ones_like(right)
        moving = (3 * ones, column, ones, 1 - 2 * right, 4 * ones, zeros, 3 * ones, column, zeros)
        bricks = torch.ones((*right.shape, 3, SIZE), dtype=torch.bool, device=u.device)
        return {"moving": torch.stack(moving, -1), "bricks": bricks}

    def observe(self, state: State) -> Tensor:
        """Return paddle, ball, where the ball was, and bricks: ``(*B, 4, 10, 10)``."""
        row, column, _, _, paddle, _, last_row, last_column, _ = state["moving"].unbind(-1)
        picture = row.new_zeros((*row.shape, 4, SIZE, SIZE))
        axis = cells(row)
        picture[..., 0, -1, :] = on_axis(paddle, axis)
        picture[..., 1, :, :] = on_axis(row, axis).unsqueeze(-1) & on_axis(column, axis).unsqueeze(
            -2
        )
        picture[..., 2, :, :] = on_axis(last_row, axis).unsqueeze(-1) & on_axis(
            last_column, axis
        ).unsqueeze(-2)
        picture[..., 3, TOP_ROW:BOTTOM_ROW, :] = state["bricks"]
        return picture

    def step(self, state: State, actions: Tensor, u: Tensor) -> tuple[State, Tensor, Tensor]:
        """Move the paddle and then the ball, which walls, bricks and the paddle send back."""
        last_row, last_column, down, right, paddle, hitting, _, _, last = state["moving"].unbind(-1)
        action = stick(actions, last, u[..., 0])
        paddle = (paddle + (action == 2).to(u.dtype) - (action == 1).to(u.dtype)).clamp(0, SIZE - 1)

        row, column = last_row + down, last_column + right
        at_wall = (column < 0) | (column >= SIZE)
        column = column.clamp(0, SIZE - 1)
        right = torch.where(at_wall, -right, right)
        at_top = row < 0

        axis = cells(u)
        cell = on_axis(row, axis[TOP_ROW:BOTTOM_ROW]).unsqueeze(-1)
        cell = cell & on_axis(column, axis).unsqueeze(-2)
        bricks = state["bricks"]
        at_brick = (bricks & cell).flatten(-2).any(-1)
        broken = at_brick & (hitting == 0)
        bricks = bricks & ~(cell & broken[..., None, None])

        at_bottom = row == SIZE - 1
        straight = at_bottom & (last_column == paddle)
        back = at_bottom & (column == paddle) & ~straight
        bricks = bricks | (at_bottom & ~bricks.flatten(-2).any(-1))[..., None, None]
        returned = broken | straight | back
        row = torch.where(returned, last_row, row.clamp(min=0))
        down = torch.where(returned | at_top, -down, down)
        right = torch.where(back, -right, right)

        moving = (row, column, down, right, paddle, at_brick, last_row, last_column, action)
        after = {"moving": torch.stack([x.to(u.dtype) for x in moving], -1), "bricks": bricks}
        return after, broken.to(u.dtype), at_bottom & ~returned
