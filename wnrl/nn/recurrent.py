"""Weight-normalized LSTM and GRU, and their cells."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from wnrl.errors import check_choice
from wnrl.nn import recurrence
from wnrl.nn.base import WeightNormed
from wnrl.nn.functional import in_transform
from wnrl.nn.recurrence import (
    Gates,
    Recurrent,
    Sequences,
    States,
    gates_by_row,
    gru_recurrence,
    lstm_recurrence,
    open_cell,
    open_for,
    run_torch,
    step_once,
    unroll,
)

BACKENDS = ("torch", "python")


class WNRecurrent(Recurrent, WeightNormed):
    """What ``WNLSTM`` and ``WNGRU`` share.

    Arguments are those of torch's layer and of ``WeightNormed``, and

    Args:
        backend: ``"torch"`` calls torch's recurrence (cuDNN on a GPU). ``"python"`` loops over
            time, which is slower in eager mode and is what torch.compile can take with grad.

    Attributes:
        weight_ih_l0_v: directions, ``(gates x hidden_size, input_size)``; so on for
            ``weight_hh_l0`` (``weight_hr_l0`` with a projection), further layers and ``_reverse``.
        weight_ih_l0_g: lengths, one for each unit of each gate, ``(gates x hidden_size, 1)``.
        bias_ih_l0: ``(gates x hidden_size,)``, as in torch.
        weight_ih_l0: the computed weight, to read, assign or initialise.
    """

    def __init__(self, *args: Any, backend: str = "torch", **kwargs: Any) -> None:
        check_choice("backend", backend, BACKENDS)
        super().__init__(*args, **kwargs)
        self.backend = backend

    @classmethod
    def from_plain(cls, plain: nn.Module, *, backend: str = "torch", **options: Any) -> Any:
        """As ``WeightNormed.from_plain``, with a choice of ``backend``."""
        check_choice("backend", backend, BACKENDS)
        layer = super().from_plain(plain, **options)
        layer.backend = backend
        return layer

    def _compute(self) -> tuple[Tensor, ...]:
        weights: Any = super()._compute()
        if self.backend == "torch" and recurrence.cudnn_applies_to(weights):
            return recurrence.cudnn_flatten(weights, self)
        return weights

    def _run(self, seq: Sequences) -> tuple[Tensor, States]:
        flat = self._weights()
        if self.backend == "python" or in_transform():  # torch's recurrence has no vmap
            return self._loop(seq, flat)
        return run_torch(self, seq, flat)

    def _loop(self, seq: Sequences, flat: tuple[Tensor, ...]) -> tuple[Tensor, States]:
        make = lstm_recurrence if self.mode == "LSTM" else gru_recurrence
        return unroll(
            seq,
            [make(row) for row in gates_by_row(flat, self.bias, self.proj_size > 0)],
            num_layers=self.num_layers,
            dropout=self.dropout if self.training else 0.0,
        )

    def to_plain(self) -> Any:
        """The plain layer with the same function and parameters of its own, laid out for cuDNN."""
        plain: Any = super().to_plain()
        plain.flatten_parameters()
        return plain

    def flatten_parameters(self) -> None:
        """Does nothing: computed weights are laid out for cuDNN when they are computed."""

    def extra_repr(self) -> str:
        """Torch's description of the plain layer, and what differs from the defaults."""
        shown = super().extra_repr()
        return shown if self.backend == "torch" else f"{shown}, backend={self.backend!r}"


class WNLSTM(WNRecurrent):
    """``nn.LSTM`` with w = g · v / ‖v‖ for its input, recurrent and projection weights."""

    plain_type = nn.LSTM
    mode = "LSTM"

    def forward(
        self, input: Tensor | PackedSequence, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Any, tuple[Tensor, Tensor]]:
        """As ``nn.LSTM``.

        Args:
            input: ``(T, N, input_size)``, ``(N, T, input_size)`` with ``batch_first``,
                ``(T, input_size)``, or a packed sequence.
            hx: h and c, ``(layers x directions, N, size)``; None for zeros.

        Returns:
            The output in the form of ``input``, and the last h and c.
        """
        seq = open_for(self, input, hx)
        out, (h, c) = seq.close(*self._run(seq))
        return out, (h, c)


class WNGRU(WNRecurrent):
    """``nn.GRU`` with w = g · v / ‖v‖ for its input and recurrent weights."""

    plain_type = nn.GRU
    mode = "GRU"
    proj_size = 0

    def forward(
        self, input: Tensor | PackedSequence, hx: Tensor | None = None
    ) -> tuple[Any, Tensor]:
        """As ``nn.GRU``.

        Args:
            input: ``(T, N, input_size)``, ``(N, T, input_size)`` with ``batch_first``,
                ``(T, input_size)``, or a packed sequence.
            hx: h, ``(layers x directions, N, hidden_size)``; None for zeros.

        Returns:
            The output in the form of ``input``, and the last h.
        """
        seq = open_for(self, input, None if hx is None else (hx,))
        out, (h,) = seq.close(*self._run(seq))
        return out, h


class WNCell(WeightNormed):
    """What ``WNLSTMCell`` and ``WNGRUCell`` share.

    Arguments are those of torch's cell and of ``WeightNormed``. A loop over a cell computes the
    weights at every step, unless it runs inside ``wnrl.shared_weights`` (or, without grad,
    ``wnrl.frozen``).

    Attributes:
        weight_ih_v: directions, ``(gates x hidden_size, input_size)``; likewise ``weight_hh_v``.
        weight_ih_g: lengths, ``(gates x hidden_size, 1)``; likewise ``weight_hh_g``.
        bias_ih: ``(gates x hidden_size,)`` or None; likewise ``bias_hh``.
        weight_ih: the computed weight; likewise ``weight_hh``.
    """


class WNLSTMCell(WNCell):
    """``nn.LSTMCell`` with w = g · v / ‖v‖ for both weights."""

    plain_type = nn.LSTMCell

    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """One step: ``input`` is ``(N, input_size)``, h and c ``(N, hidden_size)``; N may lack."""
        batch, h, c = open_cell(self, input, hx, 2)
        weights: Any = self._weights()
        if in_transform():  # torch's cells have no vmap
            h, c = step_once(lstm_recurrence(Gates(*weights)), batch, (h, c))
        else:
            h, c = torch.lstm_cell(batch, (h, c), *weights)
        return (h, c) if input.dim() == 2 else (h.squeeze(0), c.squeeze(0))


class WNGRUCell(WNCell):
    """``nn.GRUCell`` with w = g · v / ‖v‖ for both weights."""

    plain_type = nn.GRUCell

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """One step: ``input`` is ``(N, input_size)``, h is ``(N, hidden_size)``; N may lack."""
        batch, h = open_cell(self, input, None if hx is None else (hx,), 1)
        weights: Any = self._weights()
        if in_transform():
            (h,) = step_once(gru_recurrence(Gates(*weights)), batch, (h,))
        else:
            h = torch.gru_cell(batch, h, *weights)
        return h if input.dim() == 2 else h.squeeze(0)
