"""Recurrences as functions: torch's own, Python loops over time, and cuDNN's buffer."""

from collections.abc import Callable, Sequence, Sized
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.backends.cudnn import rnn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from wnrl.arguments import shown
from wnrl.errors import UsageError
from wnrl.nn.functional import check_shape, in_transform

Bias = Tensor | None
States = tuple[Tensor, ...]


class Recurrent:
    """A mixin for layers that are called as torch's recurrent ones are.

    They have the settings of torch's layer under torch's names, and a recurrence, ``_recur``: from
    ``(T, N, F)``, states ``(layers x directions, N, width)`` and None to output and states. With
    batch sizes, the number of running sequences at each time step, it is packed data to packed.
    """

    batch_first: bool

    def forward(self: Any, input: Tensor | PackedSequence, hx: Any = None) -> tuple[Any, Any]:
        """As torch's layer.

        Args:
            input: ``(T, N, input_size)``, ``(N, T, input_size)`` with ``batch_first``,
                ``(T, input_size)``, or a packed sequence.
            hx: h and c, or h alone of a GRU, ``(layers x directions, N, size)``, without N for
                ``(T, input_size)``; None for zeros.

        Returns:
            The output in the form of ``input``, and the last h and c, or the last h of a GRU.

        Raises:
            UsageError: a shape does not fit.
        """
        lstm = self.mode == "LSTM"
        packed = isinstance(input, PackedSequence)
        parts: Any = input if packed else (input, None, None, None)
        data, sizes, order, back = parts
        shape = tuple(data.shape) if isinstance(data, Tensor) else ()
        if len(shape) not in (2, 3) or shape[-1] != self.input_size:
            raise UsageError(
                f"input must be packed, or have 2 or 3 axes, with {self.input_size} features in "
                f"the last, got {shape or type(data).__name__}"
            )
        batched = packed or data.dim() == 3
        if not batched:
            data = data.unsqueeze(1)
        elif self.batch_first and not packed:
            data = data.transpose(0, 1)
        n = data.shape[1] if sizes is None else int(sizes[0])
        given = hx if lstm or hx is None else (hx,)
        states = _ordered(_open_states(self, data, given, n, batched), order)
        out, states = self._recur(data, states, sizes)
        if packed:
            out, states = PackedSequence(out, sizes, order, back), _ordered(states, back)
        elif not batched:
            out, states = out.squeeze(1), tuple(s.squeeze(1) for s in states)
        elif self.batch_first:
            out = out.transpose(0, 1)
        return out, (states if lstm else states[0])


def _open_states(layer: Any, data: Tensor, given: States | None, n: int, batched: bool) -> States:
    """Return the states before the first step, with a batch axis; raise UsageError for others."""
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    widths = [layer.proj_size or layer.hidden_size]
    widths += [layer.hidden_size] if layer.mode == "LSTM" else []
    if given is None:
        return tuple(data.new_zeros(rows, n, width) for width in widths)
    held = len(given) if isinstance(given, Sized) else shown(given)
    if held != len(widths):
        raise UsageError(f"hx must hold {len(widths)} tensors, got {held}")
    for state, width in zip(given, widths, strict=True):
        check_shape("hx", state, (rows, n, width) if batched else (rows, width))
    return tuple(state if batched else state.unsqueeze(1) for state in given)


def _ordered(states: States, order: Tensor | None) -> States:
    return states if order is None else tuple(s.index_select(1, order) for s in states)


class Cell:
    """A mixin for layers that are called as torch's recurrent cells are.

    They have torch's sizes, and ``_step``: from input and states, ``(N, ...)`` all, to the new
    states.
    """

    mode = "LSTM"

    def forward(self: Any, input: Tensor, hx: Any = None) -> Any:
        """Return h and c, or h of a GRU, ``(N, hidden_size)``, after one step.

        Args:
            input: ``(N, input_size)``; N may lack, there as everywhere.
            hx: the states before; None for zeros.

        Raises:
            UsageError: a shape does not fit.
        """
        lstm = self.mode == "LSTM"
        if hx is None:
            zeros = input.new_zeros(*input.shape[:-1], self.hidden_size)
            states: States = (zeros, zeros) if lstm else (zeros,)
        else:
            states = tuple(hx) if lstm else (hx,)
        sized = [("input", input, self.input_size), *(("hx", s, self.hidden_size) for s in states)]
        for name, tensor, size in sized:
            wanted = (*input.shape[:-1], size)
            if input.dim() not in (1, 2) or tuple(tensor.shape) != wanted:
                shown = f"({size},)" if input.dim() == 1 else f"(N, {size})"
                raise UsageError(f"{name} must have shape {shown}, got {tuple(tensor.shape)}")
        if input.dim() == 2:
            states = self._step(input, states)
        else:
            states = self._step(input.unsqueeze(0), tuple(s.unsqueeze(0) for s in states))
            states = tuple(s.squeeze(0) for s in states)
        return states if lstm else states[0]


def run_torch(
    layer: Any, weights: States, data: Tensor, states: States, sizes: Tensor | None
) -> tuple[Tensor, States]:
    """Recur as torch does, with ``weights`` ordered as the layer's parameters."""
    function = getattr(torch._VF, layer.mode.lower())
    settings = (layer.bias, layer.num_layers, layer.dropout, layer.training, layer.bidirectional)
    hx = states if layer.mode == "LSTM" else states[0]
    if sizes is None:
        out, *finals = function(data, hx, weights, *settings, False)
    else:
        out, *finals = function(data, sizes, hx, weights, *settings)
    return out, tuple(finals)


class Recurrence(NamedTuple):
    """One layer in one direction, in the two parts that cost differently."""

    prepare: Callable[[Tensor], Tensor]
    """What depends on the input alone, for all time steps at once."""
    step: Callable[[Tensor, States], States]
    """From the prepared input ``(N, ...)`` of a step and the states to the new states, h first."""

    def once(self, x: Tensor, states: States) -> States:
        """Return the states after a step; ``x`` is ``(N, F)``, the states are ``(N, width)``."""
        return self.step(self.prepare(x), states)


def unroll(
    layer: Any, rows: Sequence[Recurrence], data: Tensor, states: States, sizes: Tensor | None
) -> tuple[Tensor, States]:
    """Recur in a loop over time, for each of ``rows``: by layers, and by directions in a layer."""
    directions = len(rows) // layer.num_layers
    x, finals = data, []
    for i in range(0, len(rows), directions):
        if i and layer.dropout and layer.training:
            x = F.dropout(x, layer.dropout)
        outputs = []
        for k, row in enumerate(rows[i : i + directions], i):
            before = tuple(state[k] for state in states)
            out, final = _over_time(row, x, before, sizes, backwards=k > i)
            outputs.append(out)
            finals.append(final)
        x = outputs[0] if directions == 1 else torch.cat(outputs, -1)
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


def lstm_recurrence(
    w_ih: Tensor, w_hh: Tensor, b_ih: Bias, b_hh: Bias, w_hr: Tensor | None = None
) -> Recurrence:
    """The LSTM; states are h and c."""

    def step(given: Tensor, states: States) -> States:
        h, c = states
        return lstm_step(given + F.linear(h, w_hh, b_hh), c, w_hr, None)

    return Recurrence(lambda x: F.linear(x, w_ih, b_ih), step)


def lstm_step(
    gates: Tensor, c: Tensor, w_hr: Tensor | None, normalise: Callable[[Tensor], Tensor] | None
) -> States:
    """H and c after one step, from the pre-activations ``(N, 4 H)`` of i, f, g and o."""
    i, f, g, o = gates.chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * (c if normalise is None else normalise(c)).tanh()
    return (h if w_hr is None else F.linear(h, w_hr)), c


def gru_recurrence(w_ih: Tensor, w_hh: Tensor, b_ih: Bias, b_hh: Bias) -> Recurrence:
    """The GRU; the only state is h."""

    def step(given: Tensor, states: States) -> States:
        (h,) = states
        r, z, n = given.chunk(3, -1)
        r_h, z_h, n_h = F.linear(h, w_hh, b_hh).chunk(3, -1)
        n = (n + (r + r_h).sigmoid() * n_h).tanh()
        return (n + (z + z_h).sigmoid() * (h - n),)

    return Recurrence(lambda x: F.linear(x, w_ih, b_ih), step)


def recurrences(mode: str, flat: Sequence[Tensor], bias: bool, projected: bool) -> list[Recurrence]:
    """Return those of torch's flat list of weights: by layers, and by directions in a layer."""
    end = 2 + 2 * bias  # of the weights that come before that of a projection
    rows = [flat[start : start + end + projected] for start in range(0, len(flat), end + projected)]
    of_row: Callable[..., Recurrence] = lstm_recurrence if mode == "LSTM" else gru_recurrence
    return [of_row(*r[:2], *(r[2:4] if bias else (None, None)), *r[end:]) for r in rows]


CUDNN_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""In which it recurs; torch's ``is_acceptable`` leaves bfloat16 out."""


def cudnn_applies_to(weights: tuple[Tensor, ...]) -> bool:
    """Return whether cuDNN would run with these weights."""
    return (
        all(w.is_cuda and w.dtype == weights[0].dtype for w in weights)
        and not torch.compiler.is_compiling()
        and not in_transform()
        and torch.backends.cudnn.is_available()
        and torch.backends.cudnn.enabled
        and weights[0].dtype in CUDNN_TYPES
        and torch._use_cudnn_rnn_flatten_weight()
    )


def lay_out(layer: Any, weights: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the weights as cuDNN wants them where it runs: in one buffer; gradients go through."""
    if cudnn_applies_to(weights):
        return _CudnnFlatten.apply(layer, *weights)  # type: ignore[no-untyped-call]
    return weights


class _CudnnFlatten(torch.autograd.Function):
    """A copy as a value, the identity as a function."""

    @staticmethod
    def forward(ctx: Any, layer: Any, *weights: Tensor) -> tuple[Tensor, ...]:
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
