"""Weight-normalized layers, and what turns a plain network into one of them and back."""

from wnrl.nn.base import WeightNormed
from wnrl.nn.batch_renorm import BatchRenorm1d, BatchRenorm2d, BatchRenorm3d
from wnrl.nn.cells import WNGRUCell, WNLSTMCell
from wnrl.nn.checkpoint import load_weights, state_dict_as
from wnrl.nn.conv import (
    WNConv1d,
    WNConv2d,
    WNConv3d,
    WNConvTranspose1d,
    WNConvTranspose2d,
    WNConvTranspose3d,
)
from wnrl.nn.convert import convert, plain_parts
from wnrl.nn.data_init import data_init
from wnrl.nn.embedding import WNEmbedding
from wnrl.nn.fold import fold
from wnrl.nn.functional import row_norm, weight_norm
from wnrl.nn.linear import WNLinear
from wnrl.nn.masked import MaskedLinear, WNMaskedLinear
from wnrl.nn.mean_only import MeanOnlyBatchNorm1d, MeanOnlyBatchNorm2d, MeanOnlyBatchNorm3d
from wnrl.nn.normed_lstm import (
    LayerNormLSTM,
    LayerNormLSTMCell,
    RMSNormLSTM,
    RMSNormLSTMCell,
)
from wnrl.nn.recurrent import WNGRU, WNLSTM
from wnrl.nn.scope import StaleWeightError, frozen, invalidate, shared_weights
from wnrl.nn.standardise import DataInitReport
from wnrl.nn.table import WEIGHT_NORMED

__all__ = [
    "WEIGHT_NORMED",
    "WNGRU",
    "WNLSTM",
    "BatchRenorm1d",
    "BatchRenorm2d",
    "BatchRenorm3d",
    "DataInitReport",
    "LayerNormLSTM",
    "LayerNormLSTMCell",
    "MaskedLinear",
    "MeanOnlyBatchNorm1d",
    "MeanOnlyBatchNorm2d",
    "MeanOnlyBatchNorm3d",
    "RMSNormLSTM",
    "RMSNormLSTMCell",
    "StaleWeightError",
    "WNConv1d",
    "WNConv2d",
    "WNConv3d",
    "WNConvTranspose1d",
    "WNConvTranspose2d",
    "WNConvTranspose3d",
    "WNEmbedding",
    "WNGRUCell",
    "WNLSTMCell",
    "WNLinear",
    "WNMaskedLinear",
    "WeightNormed",
    "convert",
    "data_init",
    "fold",
    "frozen",
    "invalidate",
    "load_weights",
    "plain_parts",
    "row_norm",
    "shared_weights",
    "state_dict_as",
    "weight_norm",
]
