"""Weight-normalized LSTM and GRU, and their cells."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from wnrl.errors import check_choice
from wnrl.nn.base import WeightNormed
from wnrl.nn.functional import in_transform
from wnrl.nn.recurrence import (
    RECURRENCES,
    States,
    lay_out,
    recurrences,
    run,
    run_cell,
    run_torch,
    unroll,
)

BACKENDS = ("torch", "python")


class WNRecurrent(WeightNormed):
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

    mode: str

    def _adopt(self, *, backend: str = "torch", **options: Any) -> None:
        self.backend = check_choice("backend", backend, BACKENDS)
        super()._adopt(**options)

    def _compute(self) -> tuple[Tensor, ...]:
        weights: Any = super()._compute()
        return lay_out(self, weights) if self.backend == "torch" else weights

    def forward(self, input: Tensor | PackedSequence, hx: Any = None) -> tuple[Any, Any]:
        """As torch's layer.

        Args:
            input: ``(T, N, input_size)``, ``(N, T, input_size)`` with ``batch_first``,
                ``(T, input_size)``, or a packed sequence.
            hx: h and c, or h alone of a GRU, ``(layers x directions, N, size)``; None for zeros.

        Returns:
            The output in the form of ``input``, and the last h and c, or the last h of a GRU.
        """
        return run(self, input, hx, self._recur)

    def _recur(self, data: Tensor, states: States, sizes: Tensor | None) -> tuple[Tensor, States]:
        weights = self._weights()
        if self.backend == "torch" and not in_transform():  # torch's recurrence has no vmap
            return run_torch(self, weights, data, states, sizes)
        rows = recurrences(self.mode, weights, self.bias, self.proj_size > 0)
        return unroll(self, rows, data, states, sizes)

    def flatten_parameters(self) -> None:
        """Does nothing: computed weights are laid out for cuDNN when they are computed."""


class WNLSTM(WNRecurrent):
    """``nn.LSTM`` with w = g · v / ‖v‖ for its input, recurrent and projection weights."""

    plain_type = nn.LSTM


class WNGRU(WNRecurrent):
    """``nn.GRU`` with w = g · v / ‖v‖ for its input and recurrent weights."""

    plain_type = nn.GRU


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

    mode: str

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """Return h and c, or h of a GRU, ``(N, hidden_size)``, after one step.

        Args:
            input: ``(N, input_size)``; N may lack, there as everywhere.
            hx: the states before; None for zeros.
        """
        weights: Any = self._weights()

        def step(x: Tensor, states: States) -> States:
            if in_transform():  # torch's cells have no vmap
                return RECURRENCES[self.mode](*weights).once(x, states)
            if self.mode == "LSTM":
                return torch.lstm_cell(x, states, *weights)
            return (torch.gru_cell(x, *states, *weights),)

        return run_cell(self, input, hx, step)


class WNLSTMCell(WNCell):
    """``nn.LSTMCell`` with w = g · v / ‖v‖ for both weights."""

    plain_type = nn.LSTMCell
    mode = "LSTM"


class WNGRUCell(WNCell):
    """``nn.GRUCell`` with w = g · v / ‖v‖ for both weights."""

    plain_type = nn.GRUCell
    mode = "GRU"
