"""LSTM and GRU as Python loops over time: for torch.compile, transforms and normalised gates."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from wnrl.nn.sequence import Sequences, States


class Gates(NamedTuple):
    """Weights of one layer in one direction, as torch stores them."""

    w_ih: Tensor
    w_hh: Tensor
    b_ih: Tensor | None = None
    b_hh: Tensor | None = None
    w_hr: Tensor | None = None


class Recurrence(NamedTuple):
    """One layer in one direction, in the two parts that cost differently."""

    prepare: Callable[[Tensor], Tensor]
    """What depends on the input alone, for all time steps at once."""
    step: Callable[[Tensor, States], States]
    """From the prepared input ``(N, ...)`` of a step and the states to the new states, h first."""


def gates_by_row(flat: Sequence[Tensor], bias: bool, projected: bool) -> list[Gates]:
    """Splits torch's flat list of weights by layer and direction."""
    size = 2 + 2 * bias + projected
    rows = []
    for start in range(0, len(flat), size):
        row = flat[start : start + size]
        rows.append(
            Gates(
                row[0],
                row[1],
                row[2] if bias else None,
                row[3] if bias else None,
                row[-1] if projected else None,
            )
        )
    return rows


def unroll(
    seq: Sequences,
    rows: Sequence[Recurrence],
    *,
    num_layers: int,
    dropout: float,
) -> tuple[Tensor, States]:
    """Runs all layers and directions.

    Args:
        seq: the input and the initial states.
        rows: the recurrences, layer by layer, and direction by direction in a layer.
        num_layers: number of layers.
        dropout: share of the outputs of all layers but the last to drop; zero in eval mode.

    Returns:
        Output ``(T, N, directions x width)``, or packed data, and the final states.
    """
    directions = len(rows) // num_layers
    x, finals = seq.data, []
    for i, row in enumerate(rows):
        if i % directions == 0:
            outputs: list[Tensor] = []
        states = tuple(state[i] for state in seq.states)
        out, final = _over_time(row, x, states, seq.batch_sizes, backwards=i % directions == 1)
        outputs.append(out)
        finals.append(final)
        if len(outputs) == directions:
            x = outputs[0] if directions == 1 else torch.cat(outputs, -1)
            if dropout and i < len(rows) - 1:
                x = F.dropout(x, dropout)
    return x, tuple(torch.stack(parts) for parts in zip(*finals, strict=True))


def _over_time(
    row: Recurrence, x: Tensor, states: States, batch_sizes: Tensor | None, backwards: bool
) -> tuple[Tensor, States]:
    prepared = row.prepare(x)
    given = prepared.unbind(0) if batch_sizes is None else prepared.split(batch_sizes.tolist())
    outputs: list[Tensor] = []
    for part in reversed(given) if backwards else given:
        n = part.shape[0]
        if batch_sizes is None or n == states[0].shape[0]:
            states = row.step(part, states)
        else:  # sequences that have ended, or read backwards not begun, keep their states
            running = row.step(part, tuple(s[:n] for s in states))
            states = tuple(torch.cat((r, s[n:])) for r, s in zip(running, states, strict=True))
        outputs.append(states[0][:n])
    if backwards:
        outputs.reverse()
    return (torch.stack(outputs) if batch_sizes is None else torch.cat(outputs)), states


def step_once(row: Recurrence, x: Tensor, states: States) -> States:
    """One step of a recurrence: ``x`` is ``(N, F)``, the states are ``(N, width)``."""
    return row.step(row.prepare(x), states)


def lstm_recurrence(weights: Gates) -> Recurrence:
    """The LSTM; states are h and c."""

    def step(given: Tensor, states: States) -> States:
        h, c = states
        return lstm_step(given + F.linear(h, weights.w_hh, weights.b_hh), c, weights.w_hr)

    return Recurrence(lambda x: F.linear(x, weights.w_ih, weights.b_ih), step)


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


def gru_recurrence(weights: Gates) -> Recurrence:
    """The GRU; the only state is h."""

    def step(given: Tensor, states: States) -> States:
        (h,) = states
        r, z, n = given.chunk(3, -1)
        r_h, z_h, n_h = F.linear(h, weights.w_hh, weights.b_hh).chunk(3, -1)
        n = (n + (r + r_h).sigmoid() * n_h).tanh()
        return (n + (z + z_h).sigmoid() * (h - n),)

    return Recurrence(lambda x: F.linear(x, weights.w_ih, weights.b_ih), step)
