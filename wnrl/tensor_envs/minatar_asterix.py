"""MinAtar's Asterix as torch code."""

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
    constant,
    on_axis,
    picture_space,
    stick,
)

N_ROWS = 8  # rows 1 to 8 have at most one enemy or treasure each
RAMP_INTERVAL = 100
LAST_RAMP = 9


@dataclass(frozen=True)
class Asterix:
    """``MinAtarAsterix-v1``: enemies and treasures cross eight rows, at most one in each.

    A treasure is worth 1, and touching an enemy ends the game. Every 102 steps things appear more
    often, every other time they also move more often. Actions: nothing, left, up, right, down.
    State: ``player`` ``(*B, 7)`` has the column, the row, the steps until something appears and
    until things move, the steps until it gets harder, how often it did, and the last action;
    ``things`` ``(*B, 3, 8)`` a row's column (-1 in an empty row), direction and whether it is gold.
    """

    observation_space: ClassVar[spaces.Box] = picture_space(4)
    action_space: ClassVar[spaces.Discrete] = spaces.Discrete(5)
    max_episode_steps: ClassVar[int] = MAX_EPISODE_STEPS
    reset_draws: ClassVar[int] = 0
    step_draws: ClassVar[int] = 4

    def reset(self, u: Tensor) -> State:
        """Return the player in the middle of empty rows."""
        batch = u.shape[:-1]
        player = constant((5, 5, 10, 5, RAMP_INTERVAL, 0, 0), u).expand(*batch, 7).clone()
        things = constant((-1, 0, 0), u).unsqueeze(-1).expand(*batch, 3, N_ROWS).clone()
        return {"player": player, "things": things}

    def observe(self, state: State) -> Tensor:
        """Return player, enemies, the cells behind things, and gold: ``(*B, 4, 10, 10)``."""
        x, y = state["player"][..., :2].unbind(-1)
        columns, directions, gold = state["things"].unbind(-2)
        picture = x.new_zeros((*x.shape, 4, SIZE, SIZE))
        axis = cells(x)
        picture[..., 0, :, :] = on_axis(y, axis).unsqueeze(-1) & on_axis(x, axis).unsqueeze(-2)
        at, is_gold = on_axis(columns, axis), (gold > 0).unsqueeze(-1)
        picture[..., 1, 1:-1, :] = at & ~is_gold
        picture[..., 2, 1:-1, :] = on_axis(columns - directions, axis)
        picture[..., 3, 1:-1, :] = at & is_gold
        return picture

    def step(self, state: State, actions: Tensor, u: Tensor) -> tuple[State, Tensor, Tensor]:
        """Let something appear, move the player, and then the things."""
        x, y, appears_in, moves_in, harder_in, ramp, last = state["player"].unbind(-1)
        columns, directions, gold = state["things"].unbind(-2)
        action = stick(actions, last, u[..., 0])

        appears = appears_in == 0
        free = columns < 0
        rank = free.cumsum(-1)
        chosen = (u[..., 3] * rank[..., -1]).floor().add(1)
        new = free & (rank == chosen.unsqueeze(-1)) & appears.unsqueeze(-1)
        direction = torch.where(u[..., 1] < 0.5, 1.0, -1.0).to(u.dtype)
        columns = torch.where(new, ((1 - direction) * 4.5).unsqueeze(-1), columns)
        directions = torch.where(new, direction.unsqueeze(-1), directions)
        gold = torch.where(new, (u[..., 2] < 1 / 3).to(u.dtype).unsqueeze(-1), gold)
        appears_in = torch.where(appears, 10 - ramp, appears_in) - 1

        right, down = (action == 3), (action == 4)
        x = (x + right.to(u.dtype) - (action == 1).to(u.dtype)).clamp(0, SIZE - 1)
        y = (y + down.to(u.dtype) - (action == 2).to(u.dtype)).clamp(1, N_ROWS)

        in_row = on_axis(y, cells(u, 1, 1 + N_ROWS))
        touched = in_row & (columns == x.unsqueeze(-1))
        moves = moves_in == 0
        columns = columns + directions * moves.unsqueeze(-1)
        touched = touched | (in_row & (columns == x.unsqueeze(-1)))
        gone = (columns < 0) | (columns >= SIZE) | (touched & (gold > 0))
        columns, directions = columns.masked_fill(gone, -1), directions.masked_fill(gone, 0)
        moves_in = torch.where(moves, 5 - (ramp / 2).floor(), moves_in) - 1

        ramps = ramp < LAST_RAMP
        harder = ramps & (harder_in < 0)
        harder_in = torch.where(harder, RAMP_INTERVAL, harder_in - ramps.to(u.dtype))
        ramp = ramp + harder.to(u.dtype)
        player = torch.stack((x, y, appears_in, moves_in, harder_in, ramp, action), -1)
        after = {"player": player, "things": torch.stack((columns, directions, gold), -2)}
        rewards = (touched * gold).sum(-1)
        return after, rewards, (touched & (gold == 0)).any(-1)
