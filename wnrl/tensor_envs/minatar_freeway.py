"""MinAtar's Freeway as torch code."""

import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F

from wnrl.tensor_envs import minatar as board
from wnrl.tensor_envs.core import State

N_CARS = 8  # in rows 1 to 8
N_SPEEDS = 5
COLUMN = 4  # the chicken's
MOVE_INTERVAL = 3
LAST_STEP = 2500


class Freeway(board.Game):
    """``MinAtarFreeway-v1``: a chicken crosses eight rows of cars, one car in each.

    Arriving at the top is worth 1, sends the chicken back to the bottom and draws new speeds; a car
    that hits the chicken sends it back too. The chicken moves at most every third step, a car every
    first to fifth. The game ends after 2,501 steps. Actions: nothing, up, down. State: ``chicken``
    ``(*B, 4)`` has its row, the steps until it can move, the steps left and the last action;
    ``cars`` ``(*B, 3, 8)`` their columns, steps until the next move, and the steps between moves,
    negative for a car that drives to the left.
    """

    observation_space = board.picture_space(2 + N_SPEEDS)
    action_space = spaces.Discrete(3)
    reset_draws = 2 * N_CARS
    step_draws = 1 + 2 * N_CARS

    def reset(self, u: Tensor) -> State:
        """Return the chicken at the bottom and every car in the first column."""
        chicken = board.constant((board.SIZE - 1, MOVE_INTERVAL, LAST_STEP, 0), u)
        speeds = _speeds(u)
        cars = torch.stack((torch.zeros_like(speeds), speeds.abs(), speeds), -2)
        return {"chicken": board.in_each(chicken, u), "cars": cars}

    def observe(self, state: State) -> Tensor:
        """Return chicken, cars, and the cells behind cars by interval: ``(*B, 7, 10, 10)``."""
        row = state["chicken"][..., 0]
        columns, _, speeds = state["cars"].unbind(-2)
        interval = board.one_to(N_SPEEDS, row).unsqueeze(-1)
        behind = board.cell((columns - speeds.sign()) % board.SIZE).unsqueeze(-2)
        behind = behind * board.equal(speeds.abs().unsqueeze(-2), interval).long()
        cars = F.pad(torch.cat((board.cell(columns).unsqueeze(-2), behind), -2), (1, 1))
        chicken = board.place(row, torch.full_like(row, COLUMN)).unsqueeze(-2)
        return board.picture(torch.cat((chicken, cars), -2), row)

    def step(self, state: State, actions: Tensor, u: Tensor) -> tuple[State, Tensor, Tensor]:
        """Move the chicken and then the cars."""
        row, wait, left, last = state["chicken"].unbind(-1)
        columns, car_waits, speeds = state["cars"].unbind(-2)
        action = board.stick(actions, last, u[..., 0])

        moves = (wait == 0) & (action > 0)
        row = torch.where(moves, row + 2 * action - 3, row).clamp(max=board.SIZE - 1)
        wait = wait.masked_fill(moves, MOVE_INTERVAL)
        arrived = row <= 0
        row = row.masked_fill(arrived, board.SIZE - 1)
        renewed = arrived.unsqueeze(-1)
        speeds = torch.where(renewed, _speeds(u[..., 1:]), speeds)
        car_waits = torch.where(renewed, speeds.abs(), car_waits)

        drives, last_columns = board.equal(car_waits, 0), columns
        columns = torch.addcmul(columns, speeds.sign(), drives) % board.SIZE
        car_waits = torch.lerp(car_waits - 1, speeds.abs(), drives)
        in_row = board.equal(board.one_to(N_CARS, u), row.unsqueeze(-1))
        there = board.equal(columns, COLUMN) + board.equal(last_columns, COLUMN)
        row = row.masked_fill((in_row * there).sum(-1) > 0, board.SIZE - 1)

        left = left - 1
        chicken = torch.stack((row, (wait - 1).clamp(min=0), left, action), -1)
        cars = torch.stack((columns, car_waits, speeds), -2)
        return {"chicken": chicken, "cars": cars}, arrived.to(u.dtype), left < 0


def _speeds(u: Tensor) -> Tensor:
    """Return intervals of 1 to 5 steps by the first 8 uniforms, and their signs by the next."""
    interval, sign = u.split(N_CARS, -1)
    return (interval * N_SPEEDS).floor().add_(1) * (sign - 0.5).sign_()
