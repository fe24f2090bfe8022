"""From torch's layers to the weight-normalized ones; ``convert`` and checkpoints go by it."""

from torch import nn

from wnrl.nn.base import WeightNormed
from wnrl.nn.cells import WNGRUCell, WNLSTMCell
from wnrl.nn.conv import (
    WNConv1d,
    WNConv2d,
    WNConv3d,
    WNConvTranspose1d,
    WNConvTranspose2d,
    WNConvTranspose3d,
)
from wnrl.nn.embedding import WNEmbedding
from wnrl.nn.linear import WNLinear
from wnrl.nn.masked import WNMaskedLinear
from wnrl.nn.recurrent import WNGRU, WNLSTM

WEIGHT_NORMED: dict[type[nn.Module], type[WeightNormed]] = {
    layer.plain_type: layer
    for layer in (
        WNLinear,
        WNMaskedLinear,
        WNConv1d,
        WNConv2d,
        WNConv3d,
        WNConvTranspose1d,
        WNConvTranspose2d,
        WNConvTranspose3d,
        WNEmbedding,
        WNLSTM,
        WNGRU,
        WNLSTMCell,
        WNGRUCell,
    )
}
