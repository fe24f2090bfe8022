"""The one table of normalisations; its keys are the words in every flag, run name and table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn

from wnrl.nn.layers import WEIGHT_NORMED
from wnrl.nn.normalizers import BatchRenorm, ChannelRMSNorm, FeatureRMSNorm, MeanOnlyBatchNorm
from wnrl.nn.normed_lstm import LAYER_NORMED, RMS_NORMED
from wnrl.nn.projection import is_projected, mark_projected, project_
from wnrl.nn.spectral import SPECTRAL, step_vectors

_WEIGHT_OPTIONS = ("scale", "v_init_std", "eps", "g_rate")
# One group: statistics over all channels and positions of one example, as layer norm has them,
# and independent of the size of the image.
_group_of_all = partial(nn.GroupNorm, 1)


@dataclass(frozen=True)
class Norm:
    """One normalisation: what it does to a plain network."""

    meaning: str
    """One line, for help texts and reports."""
    colour: str = "#000000"
    """Of its lines in figures and tables."""
    dash: str | tuple[float, tuple[float, ...]] = "-"
    """Of its lines in figures, as matplotlib takes it: no two norms differ by colour alone."""
    batch_statistics: bool = False
    """Whether the output for an example depends on the other examples of a minibatch."""
    steps_in_forward: bool = False
    """Whether w takes a step in each forward in training, so that none can be computed again."""
    paired: bool = False
    """Whether a converted network is, at the start, the same function as the plain one."""
    layers: Mapping[type[nn.Module], Any] = field(default_factory=dict)
    """From a plain class to the one that takes its place; each has ``from_plain``, ``plain_type``
    and, where a plain layer can do the same, ``to_plain``."""
    normalizers: tuple[Callable[..., nn.Module], ...] | None = None
    """What is put behind hidden layers: of C features behind a linear one, and of C channels with
    1, 2 and 3 spatial axes."""
    absorbs_bias: bool = False
    """Whether the normalizer removes the layer's bias and brings its own."""
    mark: Callable[[nn.Module], bool] | None = None
    """What is done to hidden and recurrent layers in place; it tells whether that is new."""
    marked: Callable[[nn.Module], bool] = lambda layer: False
    """Whether ``mark`` was done to a layer."""
    fixes_length: bool = False
    """Whether it leaves no length of w to choose."""
    after_step: Callable[[nn.Module], None] | None = None
    """What follows each optimizer step, on the module that was stepped."""
    after_averaging: Callable[[nn.Module], None] | None = None
    """What follows where the state of a module has become the mean of several."""
    options: tuple[str, ...] = ()
    """Keyword arguments of the normalizers that a caller may choose."""
    layer_options: tuple[str, ...] = ()
    """Keyword arguments of ``from_plain`` that a caller may choose."""

    @property
    def reparametrizes(self) -> bool:
        """Whether it replaces linear layers, so that output heads can have it too."""
        return nn.Linear in self.layers

    def reached(self, layer: nn.Module) -> bool:
        """Return whether ``layer`` has its weight from this norm."""
        return type(layer) in self.layers.values() or self.marked(layer)


NORMS: dict[str, Norm] = {
    "none": Norm("plain layers", colour="#555555", paired=True),
    "weight": Norm(
        "w = g v/‖v‖, g and v trained",
        colour="#0072B2",
        paired=True,
        layers=WEIGHT_NORMED,
        layer_options=_WEIGHT_OPTIONS,
    ),
    "weight_mean": Norm(
        "weight norm with mean-only batch norm, the paper's best",
        colour="#56B4E9",
        dash="--",
        batch_statistics=True,
        layers=WEIGHT_NORMED,
        normalizers=(MeanOnlyBatchNorm,) * 4,
        absorbs_bias=True,
        options=("momentum",),
        layer_options=_WEIGHT_OPTIONS,
    ),
    "mean": Norm(
        "mean-only batch norm alone",
        colour="#CC79A7",
        dash=":",
        batch_statistics=True,
        normalizers=(MeanOnlyBatchNorm,) * 4,
        absorbs_bias=True,
        options=("momentum",),
    ),
    "projected": Norm(
        "rows of w put back on the unit sphere after each step",
        colour="#8B5FBF",
        dash="-.",
        mark=mark_projected,
        marked=is_projected,
        fixes_length=True,
        after_step=project_,
        after_averaging=project_,
    ),
    "batch": Norm(
        "batch norm",
        colour="#D55E00",
        dash="--",
        batch_statistics=True,
        normalizers=(nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
        absorbs_bias=True,
        options=("momentum", "eps"),
    ),
    "batch_renorm": Norm(
        "batch renormalisation, behind a warm-up with batch norm",
        colour="#E69F00",
        dash=":",
        batch_statistics=True,
        normalizers=(BatchRenorm,) * 4,
        absorbs_bias=True,
        options=("momentum", "eps", "r_max", "d_max", "warmup_steps", "r_steps", "d_steps"),
    ),
    "layer": Norm(
        "layer norm",
        colour="#009E73",
        dash="-.",
        layers=LAYER_NORMED,
        normalizers=(nn.LayerNorm, *(_group_of_all,) * 3),
        options=("eps",),
        layer_options=("eps",),
    ),
    "rms": Norm(
        "RMS norm",
        colour="#8C8C00",
        dash=(0, (5, 1, 1, 1, 1, 1)),
        layers=RMS_NORMED,
        normalizers=(FeatureRMSNorm, *(ChannelRMSNorm,) * 3),
        options=("eps",),
        layer_options=("eps",),
    ),
    "spectral": Norm(
        "w divided by its largest singular value",
        colour="#A6611A",
        dash=(0, (1, 3)),
        layers=SPECTRAL,
        steps_in_forward=True,
        fixes_length=True,
        after_averaging=step_vectors,
    ),
}


def origin(kind: type[nn.Module]) -> type[nn.Module] | None:
    """Return the plain class that ``kind`` takes the place of under some norm."""
    pairs = (pair for norm in NORMS.values() for pair in norm.layers.items())
    return next((plain for plain, ours in pairs if ours is kind), None)


def fixes_length(layer: nn.Module) -> bool:
    """Return whether the norm of ``layer`` leaves no length of w to choose."""
    return any(norm.fixes_length and norm.reached(layer) for norm in NORMS.values())
