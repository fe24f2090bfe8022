"""MinAtar's Space Invaders as torch code."""

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

ALIENS, SHOTS, BOMBS = 0, 1, 2  # the maps of a state
MOVE_INTERVAL, LEAST_MOVE_INTERVAL = 12, 6
BOMB_INTERVAL, SHOT_INTERVAL = 10, 5


@dataclass(frozen=True)
class SpaceInvaders:
    """``MinAtarSpaceInvaders-v1``: a cannon shoots at aliens, which move down and drop bombs.

    An alien that is shot is worth 1, and an alien or a bomb on the cannon, or an alien at the
    bottom that would move on, ends the game. Aliens move more often when few are left; each new
    wave begins faster, up to six times. Actions: nothing, left, right, shoot. State: ``cannon``
    ``(*B, 7)`` has its column, the steps until it can shoot, the steps until aliens move and until
    they drop a bomb, the interval between moves, their direction, and the last action; ``maps``
    ``(*B, 3, 10, 10)`` aliens, shots and bombs in bool.
    """

    observation_space: ClassVar[spaces.Box] = picture_space(6)
    action_space: ClassVar[spaces.Discrete] = spaces.Discrete(4)
    max_episode_steps: ClassVar[int] = MAX_EPISODE_STEPS
    reset_draws: ClassVar[int] = 0
    step_draws: ClassVar[int] = 1

    def reset(self, u: Tensor) -> State:
        """Return the first wave, which moves to the left."""
        batch = u.shape[:-1]
        cannon = constant((5, 0, MOVE_INTERVAL, BOMB_INTERVAL, MOVE_INTERVAL, -1, 0), u)
        maps = torch.zeros((*batch, 3, SIZE, SIZE), dtype=torch.bool, device=u.device)
        maps[..., ALIENS, :, :] = _wave(u)
        return {"cannon": cannon.expand(*batch, 7).clone(), "maps": maps}

    def observe(self, state: State) -> Tensor:
        """Return cannon, aliens, those on the way left and right, shots, and bombs."""
        column, _, _, _, _, direction, _ = state["cannon"].unbind(-1)
        aliens, shots, bombs = state["maps"].unbind(-3)
        picture = column.new_zeros((*column.shape, 6, SIZE, SIZE))
        picture[..., 0, -1, :] = on_axis(column, cells(column))
        picture[..., 1, :, :] = aliens
        leftwards = (direction < 0)[..., None, None]
        picture[..., 2, :, :] = aliens & leftwards
        picture[..., 3, :, :] = aliens & ~leftwards
        picture[..., 4, :, :] = shots
        picture[..., 5, :, :] = bombs
        return picture

    def step(self, state: State, actions: Tensor, u: Tensor) -> tuple[State, Tensor, Tensor]:
        """Move the cannon, shots, bombs and aliens; drop a bomb; see what was shot."""
        column, shoots_in, moves_in, bombs_in, interval, direction, last = state["cannon"].unbind(
            -1
        )
        aliens, shots, bombs = state["maps"].unbind(-3)
        action = stick(actions, last, u[..., 0])
        axis = cells(u)

        shoots = (action == 3) & (shoots_in == 0)
        shoots_in = shoots_in.masked_fill(shoots, SHOT_INTERVAL)
        column = column + (action == 2).to(u.dtype) - (action == 1).to(u.dtype)
        column = column.clamp(0, SIZE - 1)
        at_column = on_axis(column, axis)
        fired = (at_column & shoots.unsqueeze(-1)).unsqueeze(-2)
        shots = torch.cat((shots[..., 1:-1, :], fired, torch.zeros_like(fired)), -2)
        bombs = torch.cat((torch.zeros_like(bombs[..., :1, :]), bombs[..., :-1, :]), -2)

        moves = moves_in == 0
        at_edge = torch.where(direction < 0, aliens[..., 0].any(-1), aliens[..., -1].any(-1))
        down, aside = moves & at_edge, moves & ~at_edge
        landed = down & aliens[..., -1, :].any(-1)
        over = landed | ((bombs[..., -1, :] | aliens[..., -1, :]) & at_column).any(-1)
        aliens = torch.where(down[..., None, None], aliens.roll(1, -2), aliens)
        moved = torch.where(
            (direction < 0)[..., None, None], aliens.roll(-1, -1), aliens.roll(1, -1)
        )
        aliens = torch.where(aside[..., None, None], moved, aliens)
        n_aliens = aliens.flatten(-2).sum(-1)
        moves_in = torch.where(moves, torch.minimum(n_aliens.to(u.dtype), interval), moves_in)
        direction = torch.where(down, -direction, direction)

        drops = bombs_in == 0
        distance = (axis - column.unsqueeze(-1)).abs() * 2 + (axis > column.unsqueeze(-1))
        distance = distance.masked_fill(~aliens.any(-2), 3 * SIZE)
        nearest = distance == distance.amin(-1, keepdim=True)
        height = (aliens & nearest.unsqueeze(-2)).any(-1) * cells(u, 1, 1 + SIZE)
        lowest = (height == height.amax(-1, keepdim=True)) & drops.unsqueeze(-1)
        bombs = bombs | (lowest.unsqueeze(-1) & nearest.unsqueeze(-2))
        bombs_in = bombs_in.masked_fill(drops, BOMB_INTERVAL)

        over = over | (aliens[..., -1, :] & at_column).any(-1)
        struck = aliens & shots
        aliens, shots = aliens & ~struck, shots & ~struck
        cleared = ~aliens.flatten(-2).any(-1)
        aliens = aliens | (_wave(u) & cleared[..., None, None])
        interval = torch.where(cleared, (interval - 1).clamp(min=LEAST_MOVE_INTERVAL), interval)

        cannon = torch.stack(
            (
                (
                    column,
                    (shoots_in - 1).clamp(min=0),
                    moves_in - 1,
                    bombs_in - 1,
                    interval,
                    direction,
                    action,
                )
            ),
            -1,
        )
        after = {"cannon": cannon, "maps": torch.stack((aliens, shots, bombs), -3)}
        return after, struck.flatten(-2).sum(-1).to(u.dtype), over


def _wave(u: Tensor) -> Tensor:
    """Return where the aliens of a wave are at first: rows 0 to 3, columns 2 to 7."""
    axis = cells(u)
    return (axis < 4).unsqueeze(-1) & (axis >= 2) & (axis < 8)
