"""Recurrences as functions: torch's own, Python loops over time, and cuDNN's buffer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.backends.cudnn import rnn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from wnrl.errors import UsageError
from wnrl.nn.functional import in_transform

States = tuple[Tensor, ...]


class Recurrent:
    """The settings of an LSTM or GRU, under torch's names."""

    mode: str
    input_size: int
    hidden_size: int
    proj_size: int
    num_layers: int
    bias: bool
    batch_first: bool
    dropout: float
    bidirectional: bool
    training: bool


@dataclass(frozen=True)
class Sequences:
    """Input and initial states as the recurrences take them, and the way back."""

    data: Tensor
    """``(T, N, F)``, or with ``batch_sizes`` the data of a packed sequence."""
    states: States
    """Each ``(layers x directions, N, width)``."""
    batch_sizes: Tensor | None = None
    """Number of running sequences at each time step of packed data."""
    packed: PackedSequence | None = None
    batch_first: bool = False
    batched: bool = True

    def close(self, out: Tensor, states: States) -> tuple[Tensor | PackedSequence, States]:
        """Output and final states in the form in which input and states were given."""
        if self.packed is not None:
            back = self.packed.unsorted_indices
            if back is not None:
                states = tuple(s.index_select(1, back) for s in states)
            _, sizes, order, back = self.packed
            return PackedSequence(out, sizes, order, back), states
        if not self.batched:
            return out.squeeze(1), tuple(s.squeeze(1) for s in states)
        return (out.transpose(0, 1) if self.batch_first else out), states


def open_for(layer: Recurrent, input: Tensor | PackedSequence, states: States | None) -> Sequences:
    """Brings input and states of ``layer`` into the form of the recurrences.

    Args:
        layer: has the sizes.
        input: ``(T, N, F)``, ``(N, T, F)`` where ``layer.batch_first``, ``(T, F)``, or packed.
        states: each ``(layers x directions, N, width)``, without N for ``(T, F)``; None for zeros.

    Raises:
        UsageError: a shape does not fit.
    """
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    out_size = layer.proj_size or layer.hidden_size
    widths = (out_size, layer.hidden_size) if layer.mode == "LSTM" else (out_size,)
    packed = input if isinstance(input, PackedSequence) else None
    data, batch_sizes = (packed.data, packed.batch_sizes) if packed is not None else (input, None)
    if not isinstance(data, Tensor):
        raise UsageError(f"input must be a tensor or a packed sequence, got {type(data).__name__}")
    if data.shape[-1] != layer.input_size:
        raise UsageError(
            f"input must have {layer.input_size} features in its last axis, got {data.shape[-1]}"
        )
    if packed is None and data.dim() not in (2, 3):
        raise UsageError(f"input must have 2 or 3 axes, got shape {tuple(data.shape)}")
    batched = packed is not None or data.dim() == 3
    if not batched:
        data = data.unsqueeze(1)
    elif packed is None and layer.batch_first:
        data = data.transpose(0, 1)
    n = data.shape[1] if batch_sizes is None else int(batch_sizes[0])
    if states is None:
        states = tuple(data.new_zeros(rows, n, width) for width in widths)
    else:
        states = _checked(states, rows, n, widths, batched)
        if packed is not None and packed.sorted_indices is not None:
            states = tuple(s.index_select(1, packed.sorted_indices) for s in states)
    return Sequences(data, states, batch_sizes, packed, layer.batch_first, batched)


def run_torch(layer: Recurrent, seq: Sequences, weights: States) -> tuple[Tensor, States]:
    """Torch's own recurrence, with ``weights`` ordered as the layer's parameters.

    Returns:
        The output and the final states, for ``seq.close``.
    """
    run = getattr(torch._VF, layer.mode.lower())
    states = seq.states if layer.mode == "LSTM" else seq.states[0]
    sizes = (layer.bias, layer.num_layers, layer.dropout, layer.training, layer.bidirectional)
    if seq.batch_sizes is None:
        out, *finals = run(seq.data, states, weights, *sizes, False)
    else:
        out, *finals = run(seq.data, seq.batch_sizes, states, weights, *sizes)
    return out, tuple(finals)


def _checked(states: States, rows: int, n: int, widths: tuple[int, ...], batched: bool) -> States:
    if len(states) != len(widths):
        raise UsageError(f"hx must hold {len(widths)} tensors, got {len(states)}")
    for state, width in zip(states, widths, strict=True):
        wanted = (rows, n, width) if batched else (rows, width)
        if tuple(state.shape) != wanted:
            raise UsageError(f"hx must have shape {wanted}, got {tuple(state.shape)}")
    return tuple(state if batched else state.unsqueeze(1) for state in states)


def open_cell(layer: Any, input: Tensor, states: States | None, n: int) -> tuple[Tensor, ...]:
    """Input and ``n`` states of a cell, each ``(size,)`` or ``(N, size)``, with a batch axis.

    Args:
        layer: has the sizes.
        input: ``(input_size,)`` or ``(N, input_size)``.
        states: None for zeros.
        n: the number of states.

    Raises:
        UsageError: a shape does not fit.
    """
    if states is None:
        states = (input.new_zeros(*input.shape[:-1], layer.hidden_size),) * n
    for name, tensor, size in (
        ("input", input, layer.input_size),
        *(("hx", state, layer.hidden_size) for state in states),
    ):
        wanted = (*input.shape[:-1], size)
        if input.dim() not in (1, 2) or tuple(tensor.shape) != wanted:
            shown = f"({size},)" if input.dim() == 1 else f"(N, {size})"
            raise UsageError(f"{name} must have shape {shown}, got {tuple(tensor.shape)}")
    tensors = (input, *states)
    return tensors if input.dim() == 2 else tuple(t.unsqueeze(0) for t in tensors)


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

    def gates(row: Sequence[Tensor]) -> Gates:
        b_ih, b_hh = row[2:4] if bias else (None, None)
        return Gates(row[0], row[1], b_ih, b_hh, row[-1] if projected else None)

    return [gates(flat[start : start + size]) for start in range(0, len(flat), size)]


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


def cudnn_applies_to(weights: tuple[Tensor, ...]) -> bool:
    """Whether cuDNN would run with these weights."""
    return (
        all(w.is_cuda and w.dtype == weights[0].dtype for w in weights)
        and not torch.compiler.is_compiling()
        and not in_transform()
        and torch.backends.cudnn.is_acceptable(weights[0])
        and torch._use_cudnn_rnn_flatten_weight()
    )


def cudnn_flatten(weights: tuple[Tensor, ...], layer: Recurrent) -> tuple[Tensor, ...]:
    """The weights as parts of one buffer in cuDNN's own layout; gradients go through."""
    return _CudnnFlatten.apply(layer, *weights)  # type: ignore[no-untyped-call]


class _CudnnFlatten(torch.autograd.Function):
    """A copy as a value, the identity as a function."""

    @staticmethod
    def forward(ctx: Any, layer: Recurrent, *weights: Tensor) -> tuple[Tensor, ...]:
        # cuDNN's helper points the tensors that it is given at their place in the new buffer:
        # aliases, so that weights and bias parameters stay where they are. Not detach(), which
        # shares the version counter: each call would look like a write into the biases.
        parts = [w.data for w in weights]
        with torch.cuda.device_of(weights[0]):
            torch._cudnn_rnn_flatten_weight(
                parts,
                2 + 2 * layer.bias + (layer.proj_size > 0),
                layer.input_size,
                rnn.get_cudnn_mode(layer.mode),
                layer.hidden_size,
                layer.proj_size,
                layer.num_layers,
                layer.batch_first,
                layer.bidirectional,
            )
        return tuple(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return (None, *grads)
