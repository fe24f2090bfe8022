"""MinAtar's Space Invaders as torch code."""

import functools

import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F

from wnrl.tensor_envs import minatar as board
from wnrl.tensor_envs.core import State

WAVE = (0b11111100,) * 4 + (0,) * 6
MOVE_INTERVAL, LEAST_MOVE_INTERVAL = 12, 6
ASIDE = (0, -1, 1, 0)  # by action
BOMB_INTERVAL, SHOT_INTERVAL = 10, 5


class SpaceInvaders(board.Game):
    """``MinAtarSpaceInvaders-v1``: a cannon shoots at aliens, which move down and drop bombs.

    An alien that is shot is worth 1; an alien or a bomb on the cannon, and aliens at the bottom
    that would move down, end the game. Aliens move aside until one is at the edge, then down; more
    often when few are left, and each new wave faster, up to six times. The one whose column is
    nearest drops a bomb. Actions: nothing, left, right, shoot. State: ``cannon`` ``(*B, 7)`` has
    its column, the steps until it can shoot, until aliens move and until one drops a bomb, the
    steps between moves, the aliens' direction, and the last action; ``maps`` ``(*B, 3, 10)`` the
    rows of aliens, shots and bombs.
    """

    observation_space = board.picture_space(6)
    action_space = spaces.Discrete(4)
    step_draws = 1

    def reset(self, u: Tensor) -> State:
        """Return the first wave, which moves to the left."""
        cannon = board.constant((5, 0, MOVE_INTERVAL, BOMB_INTERVAL, MOVE_INTERVAL, -1, 0), u)
        maps = board.constant(WAVE + (0,) * (2 * board.SIZE), u).long()
        return {
            "cannon": board.in_each(cannon, u),
            "maps": board.in_each(maps.unflatten(-1, (3, board.SIZE)), u),
        }

    def observe(self, state: State) -> Tensor:
        """Return cannon, aliens, those that move left and right, shots, and bombs."""
        column, direction = state["cannon"][..., 0], state["cannon"][..., 5]
        aliens, shots, bombs = state["maps"].unbind(-2)
        cannon = F.pad(board.cell(column).unsqueeze(-1), (board.SIZE - 1, 0))
        leftwards = aliens * (direction < 0).unsqueeze(-1)
        maps = (cannon, aliens, leftwards, aliens - leftwards, shots, bombs)
        return board.picture(torch.stack(maps, -2), column)

    def step(self, state: State, actions: Tensor, u: Tensor) -> tuple[State, Tensor, Tensor]:
        """Move the cannon, shots, bombs and aliens; drop a bomb; see what was shot."""
        column, *waits, direction, last = state["cannon"].unbind(-1)
        shoots_in, moves_in, bombs_in, interval = waits
        aliens, shots, bombs = state["maps"].unbind(-2)
        action = board.stick(actions, last, u[..., 0])

        column = (column + board.move(action, ASIDE)).clamp(0, board.SIZE - 1)
        at_column = board.cell(column)
        shoots = (action == 3) & (shoots_in == 0)
        shoots_in = (shoots_in.masked_fill(shoots, SHOT_INTERVAL) - 1).clamp(min=0)
        fired = (at_column * shoots).unsqueeze(-1)
        nothing = torch.zeros_like(fired)
        shots = torch.cat((shots[..., 1:-1], fired, nothing), -1)
        bombs = torch.cat((nothing, bombs[..., :-1]), -1)
        hit = (bombs[..., -1] | aliens[..., -1]) & at_column

        moves, leftwards = moves_in == 0, direction < 0
        edge = torch.where(leftwards, 1, 1 << (board.SIZE - 1)).unsqueeze(-1)
        at_edge = (aliens & edge).sum(-1) > 0
        down, aside = moves & at_edge, (moves & ~at_edge).long()
        landed = down & (aliens[..., -1] > 0)
        aliens = torch.where(down.unsqueeze(-1), aliens.roll(1, -1), aliens)
        aliens = (aliens << (aside * ~leftwards).unsqueeze(-1)) >> (aside * leftwards).unsqueeze(-1)
        n_aliens = board.count(aliens, u)
        moves_in = torch.where(moves, torch.minimum(n_aliens, interval), moves_in) - 1
        direction = torch.where(down, -direction, direction)

        drops = bombs_in == 0
        bombs_in = bombs_in.masked_fill(drops, BOMB_INTERVAL) - 1
        nearest = _nearest(column, aliens)
        depth = (aliens & nearest).clamp(max=1) * board.one_to(board.SIZE, aliens)
        lowest = board.equal(depth, depth.amax(-1, keepdim=True))
        bombs = bombs | (lowest * nearest * drops.unsqueeze(-1))
        hit = hit | (aliens[..., -1] & at_column)

        struck = aliens & shots
        aliens, shots = aliens - struck, shots - struck
        rewards = board.count(struck, u)
        cleared = aliens.sum(-1) == 0
        aliens = torch.where(cleared.unsqueeze(-1), board.constant(WAVE, aliens), aliens)
        interval = torch.where(cleared, (interval - 1).clamp(min=LEAST_MOVE_INTERVAL), interval)

        cannon = (column, shoots_in, moves_in, bombs_in, interval, direction, action)
        maps = torch.stack((aliens, shots, bombs), -2)
        after = {"cannon": torch.stack(cannon, -1), "maps": maps}
        return after, rewards, landed | (hit > 0)


def _nearest(column: Tensor, aliens: Tensor) -> Tensor:
    """Return the column that has aliens and is nearest, the left one of two: a row, ``(*B, 1)``."""
    half = aliens[..., :5] | aliens[..., 5:]
    fourth = half[..., :2] | half[..., 2:4]
    columns = fourth[..., :1] | fourth[..., 1:] | half[..., 4:]
    return F.embedding(
        column.long().unsqueeze(-1) * (board.FULL_ROW + 1) + columns, _nearest_cells(column.device)
    ).squeeze(-1)


@functools.cache
def _nearest_cells(device: torch.device) -> Tensor:
    """Return, for each column and row, the row's cell that is nearest to the column."""
    with torch.inference_mode(False):
        axis = torch.arange(board.SIZE, device=device)
        column, row = axis[:, None, None], torch.arange(board.FULL_ROW + 1, device=device)[:, None]
        distance = 2 * (axis - column).abs() + (axis > column)
        distance = distance.masked_fill((row >> axis) & 1 == 0, 3 * board.SIZE)
        return (1 << distance.argmin(-1)).view(-1, 1)
