"""The weight-normalized LSTM."""

from typing import Any, Self

import torch
from torch import Tensor, nn

from wnrl.nn.functional import row_norm, weight_norm


class WNLSTM(nn.Module):
    """``nn.LSTM`` with w = g · v / ‖v‖ for input and recurrent weights, one g a gate unit.

    Arguments are those of ``nn.LSTM``; parameters are ``weight_ih_l0_g``, ``weight_ih_l0_v``, ….
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, **kw: Any) -> None:
        super().__init__()
        self._adopt(nn.LSTM(input_size, hidden_size, num_layers, **kw))

    @classmethod
    def from_plain(cls, plain: nn.LSTM) -> Self:
        """A layer with the same function as ``plain``; its biases are shared."""
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer._adopt(plain)
        return layer

    def _adopt(self, plain: nn.LSTM) -> None:
        self.input_size, self.hidden_size = plain.input_size, plain.hidden_size
        self.num_layers, self.bias = plain.num_layers, plain.bias
        self.batch_first, self.dropout = plain.batch_first, plain.dropout
        self.bidirectional = plain.bidirectional
        self._names = [name for names in plain._all_weights for name in names]
        for name, value in plain.named_parameters():
            if name.startswith("weight"):
                self.register_parameter(f"{name}_g", nn.Parameter(row_norm(value.detach())))
                self.register_parameter(f"{name}_v", nn.Parameter(value.detach().clone()))
            else:
                self.register_parameter(name, value)

    def _flat(self) -> list[Tensor]:
        return [
            weight_norm(getattr(self, f"{name}_v"), getattr(self, f"{name}_g"))
            if name.startswith("weight") else getattr(self, name)
            for name in self._names
        ]

    def to_plain(self) -> nn.LSTM:
        """An ``nn.LSTM`` with the same function and parameters of its own."""
        plain = nn.LSTM(self.input_size, self.hidden_size, self.num_layers, self.bias,
                        self.batch_first, self.dropout, self.bidirectional)
        with torch.no_grad():
            for name, value in zip(self._names, self._flat(), strict=True):
                getattr(plain, name).copy_(value)
        return plain.to(self.weight_hh_l0_v.device)

    def forward(
        self, x: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """As ``nn.LSTM``."""
        if hx is None:
            directions = 2 if self.bidirectional else 1
            n = x.shape[0 if self.batch_first else 1]
            zeros = x.new_zeros(self.num_layers * directions, n, self.hidden_size)
            hx = (zeros, zeros)
        out, h, c = torch._VF.lstm(x, hx, self._flat(), self.bias, self.num_layers, self.dropout,
                                   self.training, self.bidirectional, self.batch_first)
        return out, (h, c)
