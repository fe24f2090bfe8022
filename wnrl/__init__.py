"""Weight-normalized networks for reinforcement learning and generative models."""

from wnrl._version import __version__
from wnrl.nn import WNLSTM, WNConv2d, WNLinear, convert, fold
from wnrl.norms import NORMS

__all__ = ["NORMS", "WNLSTM", "WNConv2d", "WNLinear", "__version__", "convert", "fold"]
