"""MinAtar's Asterix as torch code."""

import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F

from wnrl.tensor_envs import minatar as board
from wnrl.tensor_envs.core import State

N_ROWS = 8  # rows 1 to 8 have at most one enemy or treasure each
SPAWN_INTERVAL, MOVE_INTERVAL = 10, 5
RAMP_INTERVAL, LAST_RAMP = 100, 9
ASIDE, DOWN = (0, -1, 0, 1, 0), (0, 0, -1, 0, 1)  # by action


class Asterix(board.Game):
    """``MinAtarAsterix-v1``: enemies and treasures cross eight rows, at most one in each.

    A treasure is worth 1, and touching an enemy ends the game. Every 102 steps things begin to
    appear more often, and every other time they also move more often. Actions: nothing, left, up,
    right, down. State: ``player`` ``(*B, 7)`` has the column, the row, the steps until something
    appears, until things move and until it gets harder, how often it did, and the last action;
    ``things`` ``(*B, 3, 8)`` a row's column (-1 in an empty row), direction and whether it is gold.
    """

    observation_space = board.picture_space(4)
    action_space = spaces.Discrete(5)
    step_draws = 4

    def reset(self, u: Tensor) -> State:
        """Return the player in the middle of empty rows."""
        player = board.constant((5, 5, SPAWN_INTERVAL, MOVE_INTERVAL, RAMP_INTERVAL, 0, 0), u)
        things = board.constant((-1, 0, 0), u).unsqueeze(-1)
        return {
            "player": board.in_each(player, u),
            "things": board.in_each(things.expand(3, N_ROWS), u),
        }

    def observe(self, state: State) -> Tensor:
        """Return player, enemies, the cells behind things, and gold: ``(*B, 4, 10, 10)``."""
        x, y = state["player"][..., :2].unbind(-1)
        columns, directions, gold = state["things"].unbind(-2)
        at, is_gold = board.cell(columns), gold.long()
        enemies, treasures = at * (1 - is_gold), at * is_gold
        things = torch.stack((enemies, board.cell(columns - directions), treasures), -2)
        player = board.place(y, x).unsqueeze(-2)
        return board.picture(torch.cat((player, F.pad(things, (1, 1))), -2), x)

    def step(self, state: State, actions: Tensor, u: Tensor) -> tuple[State, Tensor, Tensor]:
        """Let something appear, move the player, and then the things."""
        x, y, appears_in, moves_in, harder_in, ramp, last = state["player"].unbind(-1)
        columns, directions, gold = state["things"].unbind(-2)
        action = board.stick(actions, last, u[..., 0])

        appears = board.equal(appears_in, 0)
        free = board.equal(columns, -1)
        rank = free.cumsum(-1)
        chosen = (u[..., 3] * rank[..., -1]).floor().add_(1)
        new = board.equal(rank, chosen.unsqueeze(-1)) * free * appears.unsqueeze(-1)
        direction = (0.5 - u[..., 1]).sign_().unsqueeze(-1)
        is_gold = (u[..., 2] < 1 / 3).to(u.dtype).unsqueeze(-1)
        columns = torch.lerp(columns, (1 - direction) * ((board.SIZE - 1) / 2), new)
        directions = torch.lerp(directions, direction, new)
        gold = torch.lerp(gold, is_gold, new)
        appears_in = torch.lerp(appears_in, SPAWN_INTERVAL - ramp, appears) - 1

        x = (x + board.move(action, ASIDE)).clamp(0, board.SIZE - 1)
        y = (y + board.move(action, DOWN)).clamp(1, N_ROWS)
        in_row = board.equal(board.one_to(N_ROWS, u), y.unsqueeze(-1))
        moves = board.equal(moves_in, 0)
        touched = board.equal(columns, x.unsqueeze(-1))
        columns = torch.addcmul(columns, directions, moves.unsqueeze(-1))
        touched = in_row * torch.maximum(touched, board.equal(columns, x.unsqueeze(-1)))
        taken = touched * gold
        stays = (1 - taken) * board.equal(columns.clamp(0, board.SIZE - 1), columns)
        columns, directions, gold = (columns + 1) * stays - 1, directions * stays, gold * stays
        moves_in = torch.lerp(moves_in, MOVE_INTERVAL - (ramp / 2).floor(), moves) - 1

        ramps = ramp < LAST_RAMP
        harder = ramps & (harder_in < 0)
        harder_in = torch.where(harder, RAMP_INTERVAL, harder_in - ramps.to(u.dtype))
        ramp = ramp + harder.to(u.dtype)
        player = torch.stack((x, y, appears_in, moves_in, harder_in, ramp, action), -1)
        after = {"player": player, "things": torch.stack((columns, directions, gold), -2)}
        return after, taken.sum(-1), (touched - taken).sum(-1) > 0
