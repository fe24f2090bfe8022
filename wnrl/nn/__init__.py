"""Weight-normalized layers, and what turns a plain network into one of them and back."""

from wnrl.arguments import guard
from wnrl.nn.base import WeightNormed as WeightNormed
from wnrl.nn.cache import StaleWeightError as StaleWeightError
from wnrl.nn.cache import frozen as frozen
from wnrl.nn.cache import invalidate as invalidate
from wnrl.nn.cache import shared_weights as shared_weights
from wnrl.nn.conversion import convert as convert
from wnrl.nn.conversion import plain_parts as plain_parts
from wnrl.nn.functional import row_norm as row_norm
from wnrl.nn.functional import weight_norm as weight_norm
from wnrl.nn.initialization import DataInitReport as DataInitReport
from wnrl.nn.initialization import data_init as data_init
from wnrl.nn.layers import WEIGHT_NORMED as WEIGHT_NORMED
from wnrl.nn.layers import WNGRU as WNGRU
from wnrl.nn.layers import WNLSTM as WNLSTM
from wnrl.nn.layers import MaskedLinear as MaskedLinear
from wnrl.nn.layers import WNConv1d as WNConv1d
from wnrl.nn.layers import WNConv2d as WNConv2d
from wnrl.nn.layers import WNConv3d as WNConv3d
from wnrl.nn.layers import WNConvTranspose1d as WNConvTranspose1d
from wnrl.nn.layers import WNConvTranspose2d as WNConvTranspose2d
from wnrl.nn.layers import WNConvTranspose3d as WNConvTranspose3d
from wnrl.nn.layers import WNEmbedding as WNEmbedding
from wnrl.nn.layers import WNGRUCell as WNGRUCell
from wnrl.nn.layers import WNLinear as WNLinear
from wnrl.nn.layers import WNLSTMCell as WNLSTMCell
from wnrl.nn.layers import WNMaskedLinear as WNMaskedLinear
from wnrl.nn.normalizers import BatchRenorm as BatchRenorm
from wnrl.nn.normalizers import MeanOnlyBatchNorm as MeanOnlyBatchNorm
from wnrl.nn.normed_lstm import LayerNormLSTM as LayerNormLSTM
from wnrl.nn.normed_lstm import LayerNormLSTMCell as LayerNormLSTMCell
from wnrl.nn.normed_lstm import RMSNormLSTM as RMSNormLSTM
from wnrl.nn.normed_lstm import RMSNormLSTMCell as RMSNormLSTMCell
from wnrl.nn.plain import fold as fold
from wnrl.nn.plain import load_weights as load_weights
from wnrl.nn.plain import state_dict_as as state_dict_as

__all__ = [*guard(globals()), "WEIGHT_NORMED"]
