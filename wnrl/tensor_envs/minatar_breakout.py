"""MinAtar's Breakout as torch code."""

import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F

from wnrl.tensor_envs import minatar as board
from wnrl.tensor_envs.core import State

N_BRICK_ROWS = 3  # rows 1 to 3
ASIDE = (0, -1, 1)  # by action


class Breakout(board.Game):
    """``MinAtarBreakout-v1``: a ball that moves along diagonals, a paddle, three rows of bricks.

    A broken brick is worth 1, and the game ends when the paddle misses the ball. After a brick the
    ball breaks no other one before it has been in a free cell. Actions: nothing, left, right.
    State: ``places`` ``(*B, 2, 3)`` has the rows and the columns of the paddle, the ball, and the
    ball one step ago; ``moving`` ``(*B, 4)`` the ball's speed downwards and to the right, whether
    it hit a brick in the last step, and the last action; ``bricks`` ``(*B, 3)`` are rows.
    """

    observation_space = board.picture_space(4)
    action_space = spaces.Discrete(3)
    reset_draws = 1
    step_draws = 1

    def reset(self, u: Tensor) -> State:
        """Return a ball at the left or the right wall, row 3, that falls towards the middle."""
        at_left = u < 0.5
        bottom, row, paddle = board.SIZE - 1, 3, 4
        left = board.constant((bottom, row, row, paddle, 0, 0), u)
        right = board.constant((bottom, row, row, paddle, board.SIZE - 1, board.SIZE - 1), u)
        to_right, to_left = (board.constant((1, side, 0, 0), u) for side in (1, -1))
        return {
            "places": torch.where(at_left, left, right).unflatten(-1, (2, 3)),
            "moving": torch.where(at_left, to_right, to_left),
            "bricks": torch.full((*u.shape[:-1], N_BRICK_ROWS), board.FULL_ROW, device=u.device),
        }

    def observe(self, state: State) -> Tensor:
        """Return paddle, ball, where the ball was, and bricks: ``(*B, 4, 10, 10)``."""
        rows, columns = state["places"].unbind(-2)
        bricks = F.pad(state["bricks"], (1, board.SIZE - 1 - N_BRICK_ROWS)).unsqueeze(-2)
        return board.picture(torch.cat((board.place(rows, columns), bricks), -2), rows)

    def step(self, state: State, actions: Tensor, u: Tensor) -> tuple[State, Tensor, Tensor]:
        """Move the paddle and then the ball, which walls, bricks and the paddle send back."""
        rows, columns = state["places"].unbind(-2)
        bottom, last_row, _ = rows.unbind(-1)
        paddle, last_column, _ = columns.unbind(-1)
        down, right, hitting, last = state["moving"].unbind(-1)
        action = board.stick(actions, last, u[..., 0])
        paddle = (paddle + board.move(action, ASIDE)).clamp(0, board.SIZE - 1)

        row, column = last_row + down, last_column + right
        at_wall, at_top = (column < 0) | (column >= board.SIZE), row < 0
        row, column = row.clamp(0, board.SIZE - 1), column.clamp(0, board.SIZE - 1)
        right = torch.where(at_wall, -right, right)

        bricks = state["bricks"]
        met = bricks & board.place(row - 1, column, N_BRICK_ROWS)
        at_brick = met.sum(-1) > 0
        broken = at_brick & (hitting == 0)
        bricks = bricks - met * broken.unsqueeze(-1)

        at_bottom = row == board.SIZE - 1
        straight = at_bottom & (last_column == paddle)
        back = at_bottom & (column == paddle) & ~straight
        cleared = at_bottom & (bricks.sum(-1) == 0)
        bricks = bricks + cleared.long().unsqueeze(-1) * board.FULL_ROW
        returned = broken | straight | back
        row = torch.where(returned, last_row, row)
        down = torch.where(returned | at_top, -down, down)
        right = torch.where(back, -right, right)

        places = torch.stack((bottom, row, last_row, paddle, column, last_column), -1)
        after = {
            "places": places.unflatten(-1, (2, 3)),
            "moving": torch.stack((down, right, at_brick.to(u.dtype), action), -1),
            "bricks": bricks,
        }
        return after, broken.to(u.dtype), at_bottom & ~returned
