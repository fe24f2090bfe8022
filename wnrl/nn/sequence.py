"""What every recurrent layer does to its input: packed, unbatched or batch-first to (T, N, F)."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from wnrl.errors import UsageError

States = tuple[Tensor, ...]


class Recurrent(Protocol):
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


def open_sequences(
    input: Tensor | PackedSequence,
    states: States | None,
    *,
    rows: int,
    widths: tuple[int, ...],
    input_size: int,
    batch_first: bool,
) -> Sequences:
    """Brings input and states into the form of the recurrences.

    Args:
        input: ``(T, N, F)``, ``(N, T, F)`` with ``batch_first``, ``(T, F)``, or packed.
        states: each ``(rows, N, width)``, or ``(rows, width)`` for ``(T, F)``; None for zeros.
        rows: layers x directions.
        widths: last size of each state.
        input_size: F.
        batch_first: whether axis 0 of a padded ``input`` counts sequences.

    Raises:
        UsageError: a shape does not fit.
    """
    packed = input if isinstance(input, PackedSequence) else None
    data, batch_sizes = (packed.data, packed.batch_sizes) if packed is not None else (input, None)
    assert isinstance(data, Tensor)
    if data.shape[-1] != input_size:
        raise UsageError(
            f"input must have {input_size} features in its last axis, got {data.shape[-1]}"
        )
    if packed is None and data.dim() not in (2, 3):
        raise UsageError(f"input must have 2 or 3 axes, got shape {tuple(data.shape)}")
    batched = packed is not None or data.dim() == 3
    if not batched:
        data = data.unsqueeze(1)
    elif packed is None and batch_first:
        data = data.transpose(0, 1)
    n = data.shape[1] if batch_sizes is None else int(batch_sizes[0])
    if states is None:
        states = tuple(data.new_zeros(rows, n, width) for width in widths)
    else:
        states = _checked(states, rows, n, widths, batched)
        if packed is not None and packed.sorted_indices is not None:
            states = tuple(s.index_select(1, packed.sorted_indices) for s in states)
    return Sequences(data, states, batch_sizes, packed, batch_first, batched)


def open_for(layer: Recurrent, input: Tensor | PackedSequence, states: States | None) -> Sequences:
    """``open_sequences`` with the sizes of ``layer``."""
    out_size = layer.proj_size or layer.hidden_size
    return open_sequences(
        input,
        states,
        rows=layer.num_layers * (2 if layer.bidirectional else 1),
        widths=(out_size, layer.hidden_size) if layer.mode == "LSTM" else (out_size,),
        input_size=layer.input_size,
        batch_first=layer.batch_first,
    )


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


def open_cell(
    input: Tensor, states: States, *, input_size: int, hidden_size: int
) -> tuple[Tensor, ...]:
    """Input and states of a cell, each ``(size,)`` or ``(N, size)``, with a batch axis.

    Raises:
        UsageError: a shape does not fit.
    """
    named = [("input", input, input_size), *(("hx", state, hidden_size) for state in states)]
    for name, tensor, size in named:
        wanted = (*input.shape[:-1], size)
        if input.dim() not in (1, 2) or tuple(tensor.shape) != wanted:
            shown = f"({size},)" if input.dim() == 1 else f"(N, {size})"
            raise UsageError(f"{name} must have shape {shown}, got {tuple(tensor.shape)}")
    tensors = (input, *states)
    return tensors if input.dim() == 2 else tuple(t.unsqueeze(0) for t in tensors)
