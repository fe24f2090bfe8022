"""Weight-normalized networks for reinforcement learning and generative models."""

from wnrl._version import __version__
from wnrl.nn import (
    WNGRU,
    WNLSTM,
    WNConv2d,
    WNLinear,
    convert,
    data_init,
    fold,
    frozen,
    load_weights,
    shared_weights,
    state_dict_as,
)
from wnrl.norms import NORMS

__all__ = [
    "NORMS",
    "WNGRU",
    "WNLSTM",
    "WNConv2d",
    "WNLinear",
    "__version__",
    "convert",
    "data_init",
    "fold",
    "frozen",
    "load_weights",
    "shared_weights",
    "state_dict_as",
]
