"""One small instance of every layer that replaces a torch layer, and an input for it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from wnrl import nn as wn

MASK = torch.tensor([[1, 0, 0, 1, 0], [1, 1, 0, 0, 1], [0, 0, 1, 1, 1]])


@dataclass(frozen=True)
class Case:
    layer: type[nn.Module]
    args: tuple[Any, ...]
    shape: tuple[int, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)

    def build(self, **options: Any) -> Any:
        torch.manual_seed(0)
        return self.layer(*self.args, **self.kwargs, **options)

    def plain(self, **options: Any) -> nn.Module:
        torch.manual_seed(0)
        return self.layer.plain_type(*self.args, **self.kwargs, **options)

    def input(self, seed: int = 1) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        if issubclass(self.layer, wn.WNEmbedding):
            return torch.randint(self.args[0], self.shape, generator=generator)
        return torch.randn(self.shape, generator=generator)

    def seen(self, weight: Tensor) -> Tensor:
        """What the layer looks at of a weight that is written into it."""
        return weight * MASK if self.layer is wn.WNMaskedLinear else weight


def out(result: Any) -> Tensor:
    """The output proper of a layer, recurrent or not."""
    return result[0] if isinstance(result, tuple) else result


CASES = {
    "linear": Case(wn.WNLinear, (5, 7), (3, 5)),
    "linear-no-bias": Case(wn.WNLinear, (5, 7), (2, 3, 5), {"bias": False}),
    "masked": Case(wn.WNMaskedLinear, (5, 3, MASK), (3, 5)),
    "conv1d": Case(wn.WNConv1d, (4, 6, 3), (2, 4, 9), {"padding": "same", "dilation": 2}),
    "conv2d": Case(wn.WNConv2d, (4, 6, 3), (2, 4, 7, 7), {"groups": 2, "padding": 1, "stride": 2}),
    "conv2d-reflect": Case(
        wn.WNConv2d, (4, 6, (3, 2)), (2, 4, 7, 6), {"padding": (2, 1), "padding_mode": "reflect"}
    ),
    "conv3d": Case(wn.WNConv3d, (2, 3, 2), (2, 2, 4, 4, 4)),
    "transposed1d": Case(wn.WNConvTranspose1d, (4, 6, 3), (2, 4, 5), {"stride": 2}),
    "transposed2d": Case(
        wn.WNConvTranspose2d,
        (4, 6, 3),
        (2, 4, 5, 5),
        {"groups": 2, "stride": 2, "padding": 1, "output_padding": 1},
    ),
    "transposed3d": Case(wn.WNConvTranspose3d, (2, 3, 2), (2, 2, 3, 3, 3)),
    "embedding": Case(wn.WNEmbedding, (9, 4), (2, 3), {"padding_idx": 2}),
    "embedding-many": Case(wn.WNEmbedding, (9, 4), (5, 6)),
    "lstm": Case(wn.WNLSTM, (3, 4), (5, 2, 3)),
    "lstm-deep": Case(
        wn.WNLSTM,
        (3, 4, 2),
        (2, 5, 3),
        {"bidirectional": True, "batch_first": True, "proj_size": 2},
    ),
    "gru": Case(wn.WNGRU, (3, 4), (5, 2, 3), {"bias": False, "num_layers": 2}),
    "lstm-cell": Case(wn.WNLSTMCell, (3, 4), (2, 3)),
    "gru-cell": Case(wn.WNGRUCell, (3, 4), (2, 3)),
}
"""The weight-normalized layers."""

NORMED = {
    "layer-norm-lstm": Case(wn.LayerNormLSTM, (3, 4), (5, 2, 3), {"num_layers": 2}),
    "rms-norm-lstm": Case(wn.RMSNormLSTM, (3, 4), (5, 2, 3), {"bidirectional": True}),
    "layer-norm-cell": Case(wn.LayerNormLSTMCell, (3, 4), (2, 3)),
    "rms-norm-cell": Case(wn.RMSNormLSTMCell, (3, 4), (2, 3), {"bias": False}),
}
"""The recurrent layers with normalised gates."""


def fresh(layer: nn.Module, x: Tensor) -> None:
    """Nothing happened yet."""


def after_grad(layer: nn.Module, x: Tensor) -> None:
    """A forward and a backward."""
    out(layer(x)).square().sum().backward()


def after_no_grad(layer: nn.Module, x: Tensor) -> None:
    """A forward without grad."""
    with torch.no_grad():
        layer(x)


PASTS: tuple[Callable[[nn.Module, Tensor], None], ...] = (fresh, after_grad, after_no_grad)
