"""Weight-normalized layers, and what turns a plain network into one of them and back."""

from importlib import import_module
from typing import TYPE_CHECKING

from wnrl.arguments import guard
from wnrl.nn.base import WeightNormed
from wnrl.nn.cache import StaleWeightError, frozen, invalidate, shared_weights
from wnrl.nn.functional import row_norm, weight_norm
from wnrl.nn.layers import (
    MaskedLinear,
    WNConv1d,
    WNConv2d,
    WNConv3d,
    WNConvTranspose1d,
    WNConvTranspose2d,
    WNConvTranspose3d,
    WNEmbedding,
    WNLinear,
    WNMaskedLinear,
)
from wnrl.nn.normalizers import (
    BatchRenorm1d,
    BatchRenorm2d,
    BatchRenorm3d,
    MeanOnlyBatchNorm1d,
    MeanOnlyBatchNorm2d,
    MeanOnlyBatchNorm3d,
)
from wnrl.nn.normed_lstm import (
    LayerNormLSTM,
    LayerNormLSTMCell,
    RMSNormLSTM,
    RMSNormLSTMCell,
)
from wnrl.nn.plain import fold, load_weights, state_dict_as
from wnrl.nn.recurrent import WNGRU, WNLSTM, WNGRUCell, WNLSTMCell
from wnrl.nn.sites import WEIGHT_NORMED

if TYPE_CHECKING:
    from wnrl.nn.conversion import convert, plain_parts
    from wnrl.nn.initialization import DataInitReport, data_init

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

LATER = {
    "convert": "conversion",
    "plain_parts": "conversion",
    "DataInitReport": "initialization",
    "data_init": "initialization",
}
"""What needs ``wnrl.norms``, which itself needs the layers of this room."""

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Return what needs ``wnrl.norms``, which itself needs the layers of this room."""
        if name in LATER:
            globals()[name] = getattr(import_module(f"wnrl.nn.{LATER[name]}"), name)
            guard(globals(), [name])
            return globals()[name]
        raise AttributeError(f"module 'wnrl.nn' has no attribute {name!r}")


guard(globals(), set(__all__) - set(LATER))
