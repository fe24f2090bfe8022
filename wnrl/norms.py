"""The one table of normalisations; its keys are the words in every flag, run name and table."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Norm:
    """One normalisation: what it does to a plain network."""

    meaning: str
    """One line, for help texts and reports."""
    reparametrised: bool = False
    """Whether weights become g · v / ‖v‖."""
    normaliser: Callable[[int], nn.Module] | None = None
    """From a number of features to the module that normalises activations."""
    paired: bool = False
    """Whether a converted network is, at the start, the same function as the plain one."""


NORMS: dict[str, Norm] = {
    "none": Norm("plain layers", paired=True),
    "weight": Norm("w = g v/‖v‖, g and v trained", reparametrised=True, paired=True),
    "batch": Norm("batch norm before each nonlinearity", normaliser=nn.BatchNorm1d),
    "layer": Norm("layer norm before each nonlinearity", normaliser=nn.LayerNorm),
}
