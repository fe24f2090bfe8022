"""Weight-normalized layers, and what turns a plain network into one of them and back."""

from wnrl.nn.conv import WNConv2d
from wnrl.nn.convert import convert, fold
from wnrl.nn.functional import weight_norm
from wnrl.nn.linear import WNLinear
from wnrl.nn.lstm import WNLSTM

__all__ = ["WNLSTM", "WNConv2d", "WNLinear", "convert", "fold", "weight_norm"]
