"""Weight-normalized layers, and what turns a plain network into one of them and back."""

from wnrl.nn.batch_renorm import BatchRenorm1d, BatchRenorm2d, BatchRenorm3d
from wnrl.nn.conv import WNConv2d
from wnrl.nn.convert import convert, plain_parts
from wnrl.nn.fold import fold
from wnrl.nn.functional import weight_norm
from wnrl.nn.linear import WNLinear
from wnrl.nn.lstm import WNLSTM
from wnrl.nn.mean_only import MeanOnlyBatchNorm1d, MeanOnlyBatchNorm2d, MeanOnlyBatchNorm3d

__all__ = [
    "WNLSTM",
    "BatchRenorm1d",
    "BatchRenorm2d",
    "BatchRenorm3d",
    "MeanOnlyBatchNorm1d",
    "MeanOnlyBatchNorm2d",
    "MeanOnlyBatchNorm3d",
    "WNConv2d",
    "WNLinear",
    "convert",
    "fold",
    "plain_parts",
    "weight_norm",
]
