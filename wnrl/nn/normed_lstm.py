"""LSTMs whose gates are normalised at every step, by layer norm or RMS norm.

The layer-normalised LSTM is that of Ba et al. (2016, arXiv:1607.06450, equations 20 to 22)::

    gates = N(W_ih x; scale_ih, bias_ih) + N(W_hh h; scale_hh, bias_hh)
    c' = σ(f) c + σ(i) tanh(g),    h' = σ(o) tanh(N(c'; scale_c, shift_c))

where N normalises all gates of a step together, not each gate apart, as torch's TorchScript
example ``LayerNormLSTMCell`` does too. The RMS version (Zhang & Sennrich 2019, arXiv:1910.07467)
has the same scales, adds the biases outside of N and leaves the cell without a shift.
"""

import math
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from wnrl.arguments import checked
from wnrl.limits import Positive
from wnrl.nn.base import Counterpart, torch_parameters
from wnrl.nn.recurrence import Cell, Recurrence, Recurrent, States, lstm_step, unroll


def normalise(x: Tensor, centred: bool, scale: Tensor, shift: Tensor | None, eps: float) -> Tensor:
    """Layer norm (``centred``) or RMS norm over the last axis, scaled and shifted."""
    if centred:
        return F.layer_norm(x, x.shape[-1:], scale, shift, eps)
    y = F.rms_norm(x, x.shape[-1:], scale.to(x.dtype), eps)  # differ under autocast
    return y if shift is None else y + shift


class NormedRecurrent(Counterpart):
    """What the normalised LSTMs and their cells share: torch's parameters, and scales.

    Args:
        *args: those of torch's layer.
        eps: added to the variance or mean square.
        **kwargs: those of torch's layer.

    Attributes:
        weight_ih_l0: and all other parameters of the plain layer, named, shaped and initialised
            as there; the biases serve as the shifts of the normalisations.
        scale_ih_l0: ``(4 hidden_size,)``, ones at first; likewise ``scale_hh_l0``.
        scale_c_l0: ``(hidden_size,)``, ones at first; ``shift_c_l0``, zeros, with layer norm only.
    """

    centred: ClassVar[bool]
    """Layer norm, which also shifts the cell, rather than RMS norm."""
    hidden_size: int
    suffixes: list[str]
    """Of the names of parameters, by layers, and by directions in a layer."""

    @checked
    def _adopt(self, *, eps: Positive = 1e-5) -> None:
        self.eps = eps
        self._parameters = plain = torch_parameters(self)
        self.suffixes = [n.removeprefix("weight_hh") for n in plain if n.startswith("weight_hh")]
        for suffix in self.suffixes:
            w_hh = self.get_parameter(f"weight_hh{suffix}").detach()
            for name, size in (("ih", len(w_hh)), ("hh", len(w_hh)), ("c", self.hidden_size)):
                scale = nn.Parameter(w_hh.new_ones(size))
                self.register_parameter(f"scale_{name}{suffix}", scale)
            if self.centred:
                shift = nn.Parameter(w_hh.new_zeros(self.hidden_size))
                self.register_parameter(f"shift_c{suffix}", shift)

    def reset_parameters(self) -> None:
        """Draws the parameters anew, as the constructor does."""
        bound = 1 / math.sqrt(self.hidden_size)
        for name, parameter in self.named_parameters():
            if name.startswith("scale"):
                nn.init.ones_(parameter)
            elif name.startswith("shift"):
                nn.init.zeros_(parameter)
            else:
                nn.init.uniform_(parameter, -bound, bound)

    def recurrence(self, suffix: str = "") -> Recurrence:
        """The layer whose parameter names end in ``suffix``."""

        def part(name: str) -> Any:
            return getattr(self, f"{name}{suffix}", None)

        scales = {name: part(f"scale_{name}") for name in ("ih", "hh", "c")}

        def norm(x: Tensor, name: str, shift: Tensor | None) -> Tensor:
            return normalise(x, self.centred, scales[name], shift, self.eps)

        def prepare(x: Tensor) -> Tensor:
            return norm(F.linear(x, part("weight_ih")), "ih", part("bias_ih"))

        w_hh, w_hr = part("weight_hh"), part("weight_hr")
        bias_hh, shift_c = part("bias_hh"), part("shift_c")

        def step(given: Tensor, states: States) -> States:
            h, c = states
            gates = given + norm(F.linear(h, w_hh), "hh", bias_hh)
            return lstm_step(gates, c, w_hr, lambda cell: norm(cell, "c", shift_c))

        return Recurrence(prepare, step)


class NormedLSTM(Recurrent, NormedRecurrent):
    """What ``LayerNormLSTM`` and ``RMSNormLSTM`` share; arguments are those of ``nn.LSTM``."""

    plain_type = nn.LSTM

    def _recur(self, data: Tensor, states: States, sizes: Tensor | None) -> tuple[Tensor, States]:
        rows = [self.recurrence(suffix) for suffix in self.suffixes]
        return unroll(self, rows, data, states, sizes)

    def flatten_parameters(self) -> None:
        """Does nothing: cuDNN has no recurrence with normalised gates."""


class LayerNormLSTM(NormedLSTM):
    """The layer-normalised LSTM of Ba et al. (2016), called like ``nn.LSTM``."""

    centred = True


class RMSNormLSTM(NormedLSTM):
    """The LSTM with RMS-normalised gates and cell, called like ``nn.LSTM``."""

    centred = False


class NormedLSTMCell(Cell, NormedRecurrent):
    """What the normalised cells share; arguments are those of ``nn.LSTMCell``."""

    plain_type = nn.LSTMCell

    def _step(self, x: Tensor, states: States) -> States:
        return self.recurrence().once(x, states)


class LayerNormLSTMCell(NormedLSTMCell):
    """One step of ``LayerNormLSTM``, called like ``nn.LSTMCell``."""

    centred = True


class RMSNormLSTMCell(NormedLSTMCell):
    """One step of ``RMSNormLSTM``, called like ``nn.LSTMCell``."""

    centred = False


LAYER_NORMED = {nn.LSTM: LayerNormLSTM, nn.LSTMCell: LayerNormLSTMCell}
RMS_NORMED = {nn.LSTM: RMSNormLSTM, nn.LSTMCell: RMSNormLSTMCell}
