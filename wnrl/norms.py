"""The table of normalisations, where ``wnrl.norms:NORMS`` finds it."""

from wnrl.nn.norms import NORMS as NORMS
from wnrl.nn.norms import Norm as Norm
