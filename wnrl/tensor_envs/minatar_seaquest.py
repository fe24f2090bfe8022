"""MinAtar's Seaquest as torch code.

Enemies are kept in words, one for each row: six fields of ten bits, field t for those that move in
t steps, so that a step of all of them is a shift. No two enemies in one cell have the same t, since
no two appear in the same step, and those of a row swim in one direction.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F

from wnrl.tensor_envs.core import State
from wnrl.tensor_envs.minatar import (
    FULL_ROW,
    MAX_EPISODE_STEPS,
    SIZE,
    constant,
    equal,
    picture,
    picture_space,
    place,
    stick,
)

N_ROWS = 8  # rows 1 to 8 are water; row 0 is the surface, row 9 has the gauges
MAX_OXYGEN, MAX_DIVERS = 200, 6
ENEMY_INTERVAL, DIVER_INTERVAL = 20, 30
SHOT_INTERVAL, ENEMY_SHOT_INTERVAL = 5, 10
MOVE_INTERVAL, LEAST_MOVE_INTERVAL = 5, 2
LAST_RAMP = 19
N_DIVERS = N_BULLETS = 2  # no more are in the water at once
N_WORDS = 2 + ENEMY_SHOT_INTERVAL  # fish, and submarines that shoot in 0 to 10 steps
IN_ALL_FIELDS = sum(1 << (SIZE * k) for k in range(1 + MOVE_INTERVAL))


@dataclass(frozen=True)
class Seaquest:
    """``MinAtarSeaquest-v1``: a submarine shoots fish and submarines, and brings up divers.

    An enemy that is shot is worth 1; touching one or its bullet ends the game. So does running out
    of oxygen, and surfacing without a diver. Surfacing fills the tank, costs a diver and makes
    enemies appear more often, at first also move faster; with six divers it costs all, one more
    even, and is worth a tenth of the oxygen that is left in per cent. Actions: nothing, left, up,
    right, down, shoot.

    State: ``sub`` ``(*B, 11)`` has the player's column, row and direction, oxygen, divers on board,
    whether it has surfaced, the steps until it can shoot, until an enemy and until a diver appear,
    how often it surfaced, up to 19, and the last action; ``enemies`` ``(*B, 12, 8)`` words of fish
    and of submarines by the steps until they shoot; ``leftwards`` ``(*B, 8)`` their direction;
    ``enemy_bullets`` ``(*B, 2, 8)`` rows of bullets to the right and to the left; ``divers``
    ``(*B, 4, 2)`` columns (-1: none), rows, directions and steps until they move, ``bullets``
    ``(*B, 3, 2)`` the same of the player's, the newest first.
    """

    observation_space: ClassVar[spaces.Box] = picture_space(10)
    action_space: ClassVar[spaces.Discrete] = spaces.Discrete(6)
    max_episode_steps: ClassVar[int] = MAX_EPISODE_STEPS
    reset_draws: ClassVar[int] = 0
    step_draws: ClassVar[int] = 6

    def reset(self, u: Tensor) -> State:
        """Return the player at the surface of empty water."""
        batch = u.shape[:-1]
        sub = constant((5, 0, -1, MAX_OXYGEN, 0, 1, 0, ENEMY_INTERVAL, DIVER_INTERVAL, 0, 0), u)
        nobody = constant((-1, 0, 0, 0), u).unsqueeze(-1)
        words = torch.zeros((*batch, N_WORDS, N_ROWS), dtype=torch.int64, device=u.device)
        return {
            "sub": sub.expand(*batch, 11).clone(),
            "enemies": words,
            "leftwards": words[..., 0, :].clone(),
            "enemy_bullets": words[..., :2, :].clone(),
            "divers": nobody.expand(*batch, 4, N_DIVERS).clone(),
            "bullets": nobody[:3].expand(*batch, 3, N_BULLETS).clone(),
        }

    def observe(self, state: State) -> Tensor:
        """Return what there is, in ten channels: ``(*B, 10, 10, 10)``.

        The player's bow and stern, its bullets, the cells behind what swims, bullets of enemies,
        fish, submarines, the gauges of oxygen and of divers, and divers.
        """
        x, y, facing, oxygen, n_divers = state["sub"][..., :5].unbind(-1)
        swimmer_x, swimmer_y, direction, _ = state["divers"].unbind(-2)
        bullet_x, bullet_y, _ = state["bullets"].unbind(-2)
        ship = torch.stack((x, x - facing), -1)
        columns = torch.cat((ship, bullet_x, swimmer_x - direction, swimmer_x), -1)
        rows = torch.cat((torch.stack((y, y), -1), bullet_y, swimmer_y, swimmer_y), -1)
        places = place(rows, columns).unflatten(-2, (4, 2))
        bow_and_stern, pairs = places[..., 0, :, :], places[..., 1:, 0, :] | places[..., 1:, 1, :]
        bullets, behind, divers = pairs.unbind(-2)

        words = state["enemies"]
        fish, subs = _columns(
            torch.stack((words[..., 0, :], words[..., 1:, :].sum(-2)), -2)
        ).unbind(-2)
        trails = _ahead(fish | subs, 1 - state["leftwards"])
        shots = state["enemy_bullets"]
        water = torch.stack((trails, shots[..., 0, :] | shots[..., 1, :], fish, subs), -2)
        water = F.pad(water, (1, 1))
        cells_of_oxygen = (oxygen * SIZE / MAX_OXYGEN).floor().clamp(min=0).long()
        on_board = n_divers.clamp(min=0).long()
        gauges = torch.stack(
            ((1 << cells_of_oxygen) - 1, ((1 << on_board) - 1) << (SIZE - 1 - on_board)), -1
        )
        gauges = F.pad(gauges.unsqueeze(-1), (SIZE - 1, 0))
        maps = (bow_and_stern, bullets.unsqueeze(-2), (water[..., 0, :] | behind).unsqueeze(-2),
                water[..., 1:, :], gauges, divers.unsqueeze(-2))  # fmt: skip
        return picture(torch.cat(maps, -2), x)

    def step(self, state: State, actions: Tensor, u: Tensor) -> tuple[State, Tensor, Tensor]:
        """Let enemies and divers appear, move the player and all others, and breathe."""
        (x, y, facing, oxygen, n_divers, surfaced, shoots_in, enemy_in, diver_in, ramp, last) = (
            state["sub"].unbind(-1)
        )
        action = stick(actions, last, u[..., 0])
        interval = (MOVE_INTERVAL - (ramp / 2).floor()).clamp(min=LEAST_MOVE_INTERVAL)
        field = (SIZE * interval.long())[..., None, None]

        appears = enemy_in == 0
        enemies, leftwards = _spawn(
            state["enemies"], state["leftwards"], appears, field, u[..., 1:4]
        )
        enemy_in = torch.where(appears, ENEMY_INTERVAL - ramp, enemy_in) - 1
        appears = diver_in == 0
        direction = (0.5 - u[..., 4]).sign()
        diver = ((1 - direction) * ((SIZE - 1) / 2), (u[..., 5] * N_ROWS).floor() + 1, direction,
                 torch.full_like(direction, MOVE_INTERVAL))  # fmt: skip
        divers = _push(state["divers"], diver, appears)
        diver_in = diver_in.masked_fill(appears, DIVER_INTERVAL) - 1

        aside = equal(action, 3) - equal(action, 1)
        x = (x + aside).clamp(0, SIZE - 1)
        y = (y + equal(action, 4) - equal(action, 2)).clamp(0, N_ROWS)
        facing = torch.where(aside == 0, facing, aside)
        shoots = (action == 5) & (shoots_in == 0)
        shoots_in = (shoots_in.masked_fill(shoots, SHOT_INTERVAL) - 1).clamp(min=0)
        bullets = _push(state["bullets"], (x, y, facing), shoots)
        here = place(y - 1, x, N_ROWS)

        bullets = _swim(bullets, torch.ones_like(bullets[..., 0, :]))
        enemies, bullets, n_shot = _shoot(enemies, bullets)
        divers, n_divers = _take(divers, x, y, n_divers)

        met = enemies.sum(-2) & (here * IN_ALL_FIELDS)
        enemies = _move(enemies, leftwards, field)
        met = met | (enemies.sum(-2) & (here * IN_ALL_FIELDS))
        shots = state["enemy_bullets"]
        new_shots = _ahead(_columns(enemies[..., 1, :]), leftwards)
        enemies = torch.cat((enemies[..., :1, :], enemies[..., 2:, :], enemies[..., 1:2, :]), -2)
        enemies, bullets, n_more_shot = _shoot(enemies, bullets)
        met = met | ((shots[..., 0, :] | shots[..., 1, :]) & here)
        shots = torch.stack(
            (
                ((shots[..., 0, :] << 1) & FULL_ROW) | (new_shots * (1 - leftwards)),
                (shots[..., 1, :] >> 1) | (new_shots * leftwards),
            ),
            -2,
        )
        met = met | ((shots[..., 0, :] | shots[..., 1, :]) & here)

        over = (met.sum(-1) > 0) | (oxygen <= 0)
        deep = y > 0
        surfaces = ~deep & (surfaced == 0)
        over = over | (surfaces & (n_divers == 0))
        surfaces = surfaces & (n_divers != 0)
        full = surfaces & (n_divers == MAX_DIVERS)
        rewards = n_shot + n_more_shot + full * (oxygen * SIZE / MAX_OXYGEN).floor()
        n_divers = n_divers - surfaces.to(u.dtype) - full * MAX_DIVERS
        oxygen = torch.where(surfaces, MAX_OXYGEN, oxygen - deep.to(u.dtype))
        surfaced = torch.where(deep, 0, torch.where(surfaces, 1, surfaced))
        ramp = (ramp + surfaces.to(u.dtype)).clamp(max=LAST_RAMP)

        sub = (
            x,
            y,
            facing,
            oxygen,
            n_divers,
            surfaced,
            shoots_in,
            enemy_in,
            diver_in,
            ramp,
            action,
        )
        after = {
            "sub": torch.stack(sub, -1),
            "enemies": enemies,
            "leftwards": leftwards,
            "enemy_bullets": shots,
            "divers": divers,
            "bullets": bullets,
        }
        return after, rewards, over


def _spawn(
    enemies: Tensor, leftwards: Tensor, appears: Tensor, field: Tensor, u: Tensor
) -> tuple[Tensor, Tensor]:
    """Let an enemy appear at the edge of a row where none swims in the other direction."""
    left = (u[..., 0] >= 0.5).long().unsqueeze(-1)
    is_fish = (u[..., 1] >= 1 / 3).long()
    row = (u[..., 2] * N_ROWS).floor().unsqueeze(-1)
    new = equal(constant(tuple(range(N_ROWS)), u), row).long() * appears.unsqueeze(-1)
    opposed = (enemies.sum(-2) > 0) & (leftwards != left)
    new = new * ~opposed
    leftwards = torch.where(new > 0, left, leftwards)
    word = new * ((1 + left * (2 ** (SIZE - 1) - 1)) << field.squeeze(-1))
    kinds = (
        constant((1,) + (0,) * (N_WORDS - 2) + (0,), is_fish),
        constant((0,) * (N_WORDS - 1) + (1,), is_fish),
    )
    kind = torch.where(is_fish.unsqueeze(-1) > 0, *kinds)
    return enemies | (kind.unsqueeze(-1) * word.unsqueeze(-2)), leftwards


def _push(things: Tensor, new: tuple[Tensor, ...], where: Tensor) -> Tensor:
    """Put a new thing before the others, where ``where`` is true, and forget the last."""
    pushed = torch.cat((torch.stack(new, -1).unsqueeze(-1), things[..., :-1]), -1)
    return torch.where(where[..., None, None], pushed, things)


def _swim(things: Tensor, moves: Tensor) -> Tensor:
    """Move things by one cell in their direction where ``moves`` is 1; what leaves is none."""
    columns, rows, directions, *rest = things.unbind(-2)
    columns = torch.addcmul(columns, directions, moves)
    inside = equal(columns.clamp(0, SIZE - 1), columns)
    return torch.stack(((columns + 1) * inside - 1, rows, directions * inside, *rest), -2)


def _shoot(enemies: Tensor, bullets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Remove each bullet in a cell with enemies, with the one that moves next, fish first.

    Returns:
        Enemies, bullets, and how many were shot, ``(*B)``.
    """
    columns, rows, directions = bullets.unbind(-2)
    cells = place(rows - 1, columns, N_ROWS) * IN_ALL_FIELDS
    fish, subs = enemies[..., :1, :] & cells, enemies[..., 1:, :].sum(-2, keepdim=True) & cells
    no_fish = (fish.sum(-1, keepdim=True) == 0).long()
    subs = subs * no_fish
    shot = (fish & -fish) | (subs & -subs)
    used = (shot.sum(-1) > 0).to(columns.dtype)
    bullets = torch.stack(((columns + 1) * (1 - used) - 1, rows, directions * (1 - used)), -2)
    fish, subs = (fish & -fish).sum(-2, keepdim=True), (subs & -subs).sum(-2, keepdim=True)
    enemies = torch.cat((enemies[..., :1, :] - fish, enemies[..., 1:, :] & ~subs), -2)
    return enemies, bullets, used.sum(-1)


def _take(divers: Tensor, x: Tensor, y: Tensor, n_divers: Tensor) -> tuple[Tensor, Tensor]:
    """Move divers, and take on board those that the player touches before or after, up to six."""
    x, y = x.unsqueeze(-1), y.unsqueeze(-1)
    columns, rows, _, moves_in = divers.unbind(-2)
    moves = equal(moves_in, 0)
    touched = equal(columns, x)
    columns, rows, directions, _ = _swim(divers, moves).unbind(-2)
    touched = equal(rows, y) * torch.maximum(touched, equal(columns, x))
    stays = 1 - touched * (touched.cumsum(-1) <= (MAX_DIVERS - n_divers).unsqueeze(-1))
    moves_in = torch.lerp(moves_in - 1, torch.full_like(moves, MOVE_INTERVAL), moves)
    divers = torch.stack(((columns + 1) * stays - 1, rows, directions * stays, moves_in), -2)
    return divers, n_divers + (1 - stays).sum(-1)


def _move(words: Tensor, leftwards: Tensor, field: Tensor) -> Tensor:
    """Move the enemies in field 0 to the next cell and to ``field``, the others by one field."""
    moved = _ahead(words & FULL_ROW, leftwards.unsqueeze(-2))
    return (words >> SIZE) | (moved << field)


def _ahead(rows: Tensor, leftwards: Tensor) -> Tensor:
    """Return rows moved by one cell, to the left where ``leftwards`` is 1."""
    return ((rows << 2) >> (1 + 2 * leftwards)) & FULL_ROW


def _columns(words: Tensor) -> Tensor:
    """Return the rows of all fields together."""
    words = words | (words >> (3 * SIZE))
    return (words | (words >> SIZE) | (words >> (2 * SIZE))) & FULL_ROW
