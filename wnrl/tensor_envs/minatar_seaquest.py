"""MinAtar's Seaquest as torch code.

Enemies are kept in words, one for each row: six fields of ten bits, field t for those that move in
t steps, so that a step of all of them is a shift. No two enemies in one cell have the same t, since
no two appear in the same step, and those of a row swim in one direction. The steps until a
submarine shoots are a number of four bits, each in a word of its own at the submarine's place.
"""

import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F

from wnrl.tensor_envs import minatar as board
from wnrl.tensor_envs.core import State

N_ROWS = 8  # rows 1 to 8 are water; row 0 is the surface, row 9 has the gauges
MAX_OXYGEN, MAX_DIVERS = 200, 6
ENEMY_INTERVAL, DIVER_INTERVAL = 20, 30
SHOT_INTERVAL, ENEMY_SHOT_INTERVAL = 5, 10
MOVE_INTERVAL, LEAST_MOVE_INTERVAL = 5, 2
LAST_RAMP = 19
N_DIVERS = N_BULLETS = 2  # no more are in the water at once
FISH, SUBS = 0, 1  # words of enemies
N_WORDS = 6
NEW_FISH, NEW_SUB = (1, 0, 0, 0, 0, 0), (0, 1, 0, 1, 0, 1)  # which shoots in ten steps
ASIDE, DOWN = (0, -1, 0, 1, 0, 0), (0, 0, -1, 0, 1, 0)  # by action
IN_ALL_FIELDS = sum(1 << (board.SIZE * k) for k in range(1 + MOVE_INTERVAL))


class Seaquest(board.Game):
    """``MinAtarSeaquest-v1``: a submarine shoots fish and submarines, and brings up divers.

    An enemy that is shot is worth 1; touching one or its bullet ends the game. So does running out
    of oxygen, and surfacing without a diver. Surfacing fills the tank, costs a diver and makes
    enemies appear more often, at first also move faster; with six divers it costs all, one more
    even, and is worth a tenth of the oxygen that is left in per cent. Actions: nothing, left, up,
    right, down, shoot.

    State: ``sub`` ``(*B, 11)`` has the player's column, row and direction, oxygen, divers on board,
    whether it has surfaced, the steps until it can shoot, until an enemy and until a diver appear,
    how often it surfaced, up to 19, and the last action; ``enemies`` ``(*B, 6, 8)`` words of fish,
    of submarines, and of the bits of the steps until they shoot, the lowest first; ``leftwards``
    ``(*B, 8)`` 1 where they swim to the left; ``enemy_bullets`` ``(*B, 2, 8)`` rows of bullets to
    the right and to the left; ``divers`` ``(*B, 4, 2)`` columns (-1: none), rows, directions and
    steps until they move; ``bullets`` ``(*B, 3, 2)`` the player's: columns, rows and directions.
    Of divers and bullets the newest is first.
    """

    observation_space = board.picture_space(10)
    action_space = spaces.Discrete(6)
    step_draws = 6

    def reset(self, u: Tensor) -> State:
        """Return the player at the surface of empty water."""
        at_surface = (5, 0, -1, MAX_OXYGEN, 0, 1, 0, ENEMY_INTERVAL, DIVER_INTERVAL, 0, 0)
        nobody = board.constant((-1, 0, 0, 0), u).unsqueeze(-1)
        words = torch.zeros((*u.shape[:-1], N_WORDS, N_ROWS), dtype=torch.int64, device=u.device)
        return {
            "sub": board.in_each(board.constant(at_surface, u), u),
            "enemies": words,
            "leftwards": words[..., 0, :].clone(),
            "enemy_bullets": words[..., :2, :].clone(),
            "divers": board.in_each(nobody.expand(4, N_DIVERS), u),
            "bullets": board.in_each(nobody[:3].expand(3, N_BULLETS), u),
        }

    def observe(self, state: State) -> Tensor:
        """Return what there is, in ten channels: ``(*B, 10, 10, 10)``.

        The player's bow and stern, its bullets, the cells behind what swims, bullets of enemies,
        fish, submarines, the gauges of oxygen and of divers, and divers.
        """
        x, y, facing, oxygen, n_divers = state["sub"][..., :5].unbind(-1)
        diver_x, diver_y, direction, _ = state["divers"].unbind(-2)
        bullet_x, bullet_y, _ = state["bullets"].unbind(-2)
        rows = torch.cat((torch.stack((y, y), -1), bullet_y, diver_y, diver_y), -1)
        bow_and_stern = torch.stack((x, x - facing), -1)
        columns = torch.cat((bow_and_stern, bullet_x, diver_x - direction, diver_x), -1)
        bow, stern, *pairs = board.place(rows, columns).unbind(-2)
        bullets, wakes, divers = (pairs[k] | pairs[k + 1] for k in (0, 2, 4))

        fish, subs = _columns(state["enemies"][..., :2, :]).unbind(-2)
        trails = ((fish | subs) << (2 * state["leftwards"])) >> 1 & board.FULL_ROW
        shots = state["enemy_bullets"]
        water = torch.stack((trails, shots[..., 0, :] | shots[..., 1, :], fish, subs), -2)
        trails, shots, fish, subs = F.pad(water, (1, 1)).unbind(-2)

        tenths = (oxygen.clamp(min=0) * board.SIZE / MAX_OXYGEN).long()
        on_board = n_divers.clamp(min=0).long()
        gauges = ((1 << tenths) - 1, ((1 << on_board) - 1) << (board.SIZE - 1 - on_board))
        bottom = torch.stack(gauges, -1).unsqueeze(-1)
        tank, passengers = F.pad(bottom, (board.SIZE - 1, 0)).unbind(-2)
        maps = (bow, stern, bullets, trails | wakes, shots, fish, subs, tank, passengers, divers)
        return board.picture(torch.stack(maps, -2), x)

    def step(self, state: State, actions: Tensor, u: Tensor) -> tuple[State, Tensor, Tensor]:
        """Let enemies and divers appear, move the player and all others, and breathe."""
        x, y, facing, oxygen, n_divers, surfaced, *others = state["sub"].unbind(-1)
        shoots_in, enemy_in, diver_in, ramp, last = others
        action = board.stick(actions, last, u[..., 0])

        field = MOVE_INTERVAL - (ramp / 2).floor()
        field = (board.SIZE * field.clamp(min=LEAST_MOVE_INTERVAL)).long().unsqueeze(-1)
        appears = enemy_in == 0
        enemies, leftwards = _spawn(state["enemies"], state["leftwards"], appears, field, u)
        enemy_in = torch.where(appears, ENEMY_INTERVAL - ramp, enemy_in) - 1
        appears = diver_in == 0
        direction = (0.5 - u[..., 4]).sign_()
        side, row = (1 - direction) * ((board.SIZE - 1) / 2), (u[..., 5] * N_ROWS).floor_().add_(1)
        diver = (side, row, direction, torch.full_like(row, MOVE_INTERVAL))
        divers = _push(state["divers"], diver, appears)
        diver_in = diver_in.masked_fill(appears, DIVER_INTERVAL) - 1

        aside, down = board.move(action, ASIDE), board.move(action, DOWN)
        x, y = (x + aside).clamp(0, board.SIZE - 1), (y + down).clamp(0, N_ROWS)
        facing = torch.where(aside == 0, facing, aside)
        shoots = (action == 5) & (shoots_in == 0)
        shoots_in = (shoots_in.masked_fill(shoots, SHOT_INTERVAL) - 1).clamp(min=0)
        bullets = _push(state["bullets"], (x, y, facing), shoots)
        here = board.place(y - 1, x, N_ROWS)

        bullets = _swim(bullets)
        bullets, n_shot = _shoot(enemies, bullets)
        divers, n_divers = _take(divers, x, y, n_divers)

        met = enemies[..., FISH, :] | enemies[..., SUBS, :]
        enemies, firing = _move(enemies, leftwards, field)
        met = (met | enemies[..., FISH, :] | enemies[..., SUBS, :]) & (here * IN_ALL_FIELDS)
        bullets, n_more_shot = _shoot(enemies, bullets)
        to_right, to_left = state["enemy_bullets"].unbind(-2)
        met = met | ((to_right | to_left) & here)
        to_right = ((to_right | firing & (leftwards - 1)) << 1) & board.FULL_ROW
        to_left = (to_left | firing & -leftwards) >> 1
        met = met | ((to_right | to_left) & here)

        breath = _breathe(y, oxygen, n_divers, surfaced)
        oxygen, n_divers, surfaced, rises, rewards, suffocated = breath
        ramp = (ramp + rises).clamp(max=LAST_RAMP)
        player = (x, y, facing, oxygen, n_divers, surfaced)
        others = [shoots_in, enemy_in, diver_in, ramp, action]
        after = {
            "sub": torch.stack((*player, *others), -1),
            "enemies": enemies,
            "leftwards": leftwards,
            "enemy_bullets": torch.stack((to_right, to_left), -2),
            "divers": divers,
            "bullets": bullets,
        }
        return after, rewards + n_shot + n_more_shot, suffocated | (met.sum(-1) > 0)


def _spawn(
    enemies: Tensor, leftwards: Tensor, appears: Tensor, field: Tensor, u: Tensor
) -> tuple[Tensor, Tensor]:
    """Return new words and directions: an enemy appears where none swims the other way."""
    left = (u[..., 1] >= 0.5).long().unsqueeze(-1)
    is_fish = (u[..., 2] >= 1 / 3).unsqueeze(-1)
    row = (u[..., 3] * N_ROWS).floor_()
    edge = board.place(row, (board.SIZE - 1) * left.squeeze(-1), N_ROWS) * appears.unsqueeze(-1)
    opposed = ((enemies[..., FISH, :] | enemies[..., SUBS, :]) > 0) & (leftwards != left)
    edge = edge * ~opposed
    leftwards = torch.where(edge > 0, left, leftwards)
    fish, sub = (board.constant(words, left) for words in (NEW_FISH, NEW_SUB))
    new = (edge << field).unsqueeze(-2) * torch.where(is_fish, fish, sub).unsqueeze(-1)
    return enemies | new, leftwards


def _push(things: Tensor, new: tuple[Tensor, ...], where: Tensor) -> Tensor:
    """Put a new thing before the others, where ``where`` is true, and forget the last."""
    pushed = torch.cat((torch.stack(new, -1).unsqueeze(-1), things[..., :-1]), -1)
    return torch.where(where[..., None, None], pushed, things)


def _swim(things: Tensor, moves: Tensor | float = 1.0) -> Tensor:
    """Move things by one cell in their direction where ``moves`` is 1; what leaves is none."""
    columns, rows, directions, *rest = things.unbind(-2)
    columns = columns + directions * moves
    inside = board.equal(columns.clamp(0, board.SIZE - 1), columns)
    return torch.stack(((columns + 1) * inside - 1, rows, directions * inside, *rest), -2)


def _shoot(enemies: Tensor, bullets: Tensor) -> tuple[Tensor, Tensor]:
    """Remove each bullet in a cell with enemies, with the one that moves next, fish first.

    Args:
        enemies: words, ``(*B, 6, 8)``; who is shot is taken out in place.
        bullets: ``(*B, 3, 2)``.

    Returns:
        The bullets that are left, and how many enemies were shot, ``(*B)``.
    """
    columns, rows, directions = bullets.unbind(-2)
    cells = board.place(rows - 1, columns, N_ROWS) * IN_ALL_FIELDS
    fish, subs = cells & enemies[..., :1, :], cells & enemies[..., 1:2, :]
    fish = fish & -fish
    subs = (subs & -subs) * (fish.sum(-1, keepdim=True) == 0)
    flies = ((fish | subs).sum(-1) == 0).to(columns.dtype)
    enemies[..., :1, :] -= fish.sum(-2, keepdim=True)
    enemies[..., 1:, :] &= ~subs.sum(-2, keepdim=True)
    bullets = torch.stack(((columns + 1) * flies - 1, rows, directions * flies), -2)
    return bullets, (1 - flies).sum(-1)


def _take(divers: Tensor, x: Tensor, y: Tensor, n_divers: Tensor) -> tuple[Tensor, Tensor]:
    """Move divers, and take on board those that the player touches before or after, up to six."""
    x, y = x.unsqueeze(-1), y.unsqueeze(-1)
    columns, _, _, moves_in = divers.unbind(-2)
    moves = board.equal(moves_in, 0)
    touched = board.equal(columns, x)
    columns, rows, directions, _ = _swim(divers, moves).unbind(-2)
    touched = board.equal(rows, y) * torch.maximum(touched, board.equal(columns, x))
    stays = 1 - touched * (touched.cumsum(-1) <= (MAX_DIVERS - n_divers).unsqueeze(-1))
    moves_in = moves_in - 1 + (1 + MOVE_INTERVAL) * moves
    divers = torch.stack(((columns + 1) * stays - 1, rows, directions * stays, moves_in), -2)
    return divers, n_divers + (1 - stays).sum(-1)


def _move(enemies: Tensor, leftwards: Tensor, field: Tensor) -> tuple[Tensor, Tensor]:
    """Move the enemies in field 0 by one cell and to ``field``, all others by one field.

    Returns:
        The words, and the rows of those that shoot in this step.
    """
    moved = (enemies & board.FULL_ROW) << (field + 1 - 2 * leftwards).unsqueeze(-2)
    moved &= (board.FULL_ROW << field).unsqueeze(-2)
    moved |= enemies >> board.SIZE
    fish, subs, *bits = moved.unbind(-2)
    counts = bits[0] | bits[1] | bits[2] | bits[3]
    firing, borrow, fewer = subs ^ counts, counts, []
    for bit in bits:
        fewer.append(bit ^ borrow)
        borrow = borrow & fewer[-1]
    reloaded = (fish, subs, fewer[0], fewer[1] | firing, fewer[2], fewer[3] | firing)
    return torch.stack(reloaded, -2), _columns(firing)


def _breathe(y: Tensor, oxygen: Tensor, n_divers: Tensor, surfaced: Tensor) -> tuple[Tensor, ...]:
    """Use up oxygen below, and at the surface trade a diver, or all six, for a full tank.

    Returns:
        Oxygen, divers, whether it has surfaced and whether it did so now; the reward; and whether
        the game is over.
    """
    deep = y > 0
    arrives = ~deep & (surfaced == 0)
    over = (oxygen <= 0) | (arrives & (n_divers == 0))
    rises = arrives & (n_divers != 0)
    full = rises & (n_divers == MAX_DIVERS)
    rewards = full * (oxygen * board.SIZE / MAX_OXYGEN).floor()
    n_divers = n_divers - rises.to(y.dtype) - full * MAX_DIVERS
    oxygen = torch.where(rises, MAX_OXYGEN, oxygen - deep.to(y.dtype))
    surfaced = torch.where(deep, 0, torch.where(rises, 1, surfaced))
    return oxygen, n_divers, surfaced, rises.to(y.dtype), rewards, over


def _columns(words: Tensor) -> Tensor:
    """Return the rows of all fields together."""
    words = words | (words >> (3 * board.SIZE))
    return (words | (words >> board.SIZE) | (words >> (2 * board.SIZE))) & board.FULL_ROW
