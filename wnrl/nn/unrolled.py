"""LSTM and GRU as Python loops over time: for torch.compile, transforms and normalised gates."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from wnrl.nn.sequence import States, stack


class Gates(NamedTuple):
    """Weights of one layer in one direction, as torch stores them."""

    w_ih: Tensor
    w_hh: Tensor
    b_ih: Tensor | None = None
    b_hh: Tensor | None = None
    w_hr: Tensor | None = None


Layer = Callable[[Tensor, States, int], tuple[Tensor, States]]
"""From input ``(T, N, F)``, states ``(N, width)`` and the row of the layer to output and states."""


def gates_by_row(flat: Sequence[Tensor], bias: bool, projected: bool) -> list[Gates]:
    """Splits torch's flat list of weights by layer and direction."""
    size = 2 + 2 * bias + projected
    rows = [flat[i : i + size] for i in range(0, len(flat), size)]
    last = {"w_hr": 4 if bias else 2} if projected else {}
    return [
        Gates(*row[: 4 if bias else 2], **{name: row[i] for name, i in last.items()})
        for row in rows
    ]


def unroll(
    x: Tensor,
    states: States,
    layer: Layer,
    *,
    num_layers: int,
    bidirectional: bool,
    dropout: float,
) -> tuple[Tensor, States]:
    """Runs ``layer`` for all layers and directions.

    Args:
        x: ``(T, N, F)``.
        states: each ``(layers x directions, N, width)``.
        layer: the recurrence of one layer in one direction.
        num_layers: number of layers.
        bidirectional: whether a second direction reads the sequence from its end.
        dropout: share of the outputs of all layers but the last to drop; zero in eval mode.

    Returns:
        Output ``(T, N, directions x width)`` and the final states, shaped as given.
    """
    directions = 2 if bidirectional else 1
    finals: list[States] = []
    for depth in range(num_layers):
        outputs = []
        for direction in range(directions):
            row = depth * directions + direction
            read = x.flip(0) if direction else x
            out, final = layer(read, tuple(state[row] for state in states), row)
            outputs.append(out.flip(0) if direction else out)
            finals.append(final)
        x = outputs[0] if directions == 1 else torch.cat(outputs, -1)
        if dropout and depth < num_layers - 1:
            x = F.dropout(x, dropout)
    return x, tuple(stack(list(parts)) for parts in zip(*finals, strict=True))


def lstm_layer(x: Tensor, states: States, weights: Gates) -> tuple[Tensor, States]:
    """One LSTM layer in one direction; ``x`` is ``(T, N, F)``, the states are h and c."""
    h, c = states
    from_input = F.linear(x, weights.w_ih, weights.b_ih)
    outputs = []
    for given in from_input.unbind(0):
        h, c = lstm_step(given + F.linear(h, weights.w_hh, weights.b_hh), c, weights.w_hr)
        outputs.append(h)
    return torch.stack(outputs), (h, c)


def lstm_step(
    gates: Tensor,
    c: Tensor,
    w_hr: Tensor | None = None,
    normalise_cell: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """H and c after one step, from the pre-activations ``(N, 4 H)`` of i, f, g and o."""
    i, f, g, o = gates.chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * (c if normalise_cell is None else normalise_cell(c)).tanh()
    return (h if w_hr is None else F.linear(h, w_hr)), c


def gru_layer(x: Tensor, states: States, weights: Gates) -> tuple[Tensor, States]:
    """One GRU layer in one direction; ``x`` is ``(T, N, F)``, the only state is h."""
    (h,) = states
    from_input = F.linear(x, weights.w_ih, weights.b_ih)
    outputs = []
    for given in from_input.unbind(0):
        r, z, n = given.chunk(3, -1)
        r_h, z_h, n_h = F.linear(h, weights.w_hh, weights.b_hh).chunk(3, -1)
        z = (z + z_h).sigmoid()
        n = (n + (r + r_h).sigmoid() * n_h).tanh()
        h = n + z * (h - n)
        outputs.append(h)
    return torch.stack(outputs), (h,)
