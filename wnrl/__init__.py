"""Weight-normalized networks for reinforcement learning and generative models.

The names below are imported when one of them is first used, so that ``wnrl.errors`` and the like
do not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from wnrl._version import __version__

if TYPE_CHECKING:
    from wnrl.nn import (
        WNGRU,
        WNLSTM,
        WNConv1d,
        WNConv2d,
        WNConv3d,
        WNConvTranspose1d,
        WNConvTranspose2d,
        WNConvTranspose3d,
        WNEmbedding,
        WNGRUCell,
        WNLinear,
        WNLSTMCell,
        convert,
        data_init,
        fold,
        frozen,
        invalidate,
        load_weights,
        shared_weights,
        state_dict_as,
    )
    from wnrl.norms import NORMS

__all__ = [
    "NORMS",
    "WNGRU",
    "WNLSTM",
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
    "__version__",
    "convert",
    "data_init",
    "fold",
    "frozen",
    "invalidate",
    "load_weights",
    "shared_weights",
    "state_dict_as",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Return a public name, or one of the modules that have them, after importing it."""
        if name in ("nn", "norms"):
            return import_module(f"wnrl.{name}")
        if name not in __all__:
            raise AttributeError(f"module 'wnrl' has no attribute {name!r}")
        home = import_module("wnrl.norms" if name == "NORMS" else "wnrl.nn")
        return globals().setdefault(name, getattr(home, name))

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__, "nn", "norms"})
