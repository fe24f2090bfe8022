"""Weight-normalized LSTM and GRU cells: one step a call."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from wnrl.nn.base import WeightNormed
from wnrl.nn.effective import effective_weight
from wnrl.nn.functional import in_transform
from wnrl.nn.sequence import open_cell
from wnrl.nn.unrolled import Gates, gru_recurrence, lstm_recurrence, step_once

_ARGUMENTS = ("input_size", "hidden_size", "bias")


class WNCell(WeightNormed):
    """What ``WNLSTMCell`` and ``WNGRUCell`` share.

    Arguments are those of torch's cell and of ``WeightNormed``. A loop over a cell computes the
    weights at every step, unless it runs inside ``wnrl.shared_weights`` (or, without grad,
    ``wnrl.frozen``).

    Attributes:
        weight_ih_v: directions, ``(gates x hidden_size, input_size)``; likewise ``weight_hh_v``.
        weight_ih_g: lengths, ``(gates x hidden_size, 1)``; likewise ``weight_hh_g``.
        bias_ih: ``(gates x hidden_size,)`` or None; likewise ``bias_hh``.
        weight_ih: the effective weight; likewise ``weight_hh``.
    """

    arguments: ClassVar[tuple[str, ...]] = _ARGUMENTS
    input_size: int
    hidden_size: int
    bias: bool
    weight_ih = effective_weight()
    weight_hh = effective_weight()

    def _checked(self, input: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """``input`` and the states with a batch axis."""
        return open_cell(input, states, input_size=self.input_size, hidden_size=self.hidden_size)

    def _zeros(self, input: Tensor) -> Tensor:
        return input.new_zeros(*input.shape[:-1], self.hidden_size)


class WNLSTMCell(WNCell):
    """``nn.LSTMCell`` with w = g · v / ‖v‖ for both weights."""

    plain_type = nn.LSTMCell

    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """One step: ``input`` is ``(N, input_size)``, h and c ``(N, hidden_size)``; N may lack."""
        states = hx if hx is not None else (self._zeros(input), self._zeros(input))
        batch, h, c = self._checked(input, *states)
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
        batch, h = self._checked(input, self._zeros(input) if hx is None else hx)
        weights: Any = self._weights()
        if in_transform():
            (h,) = step_once(gru_recurrence(Gates(*weights)), batch, (h,))
        else:
            h = torch.gru_cell(batch, h, *weights)
        return h if input.dim() == 2 else h.squeeze(0)
