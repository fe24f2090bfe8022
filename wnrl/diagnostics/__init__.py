"""Measures of a network while it learns: pure functions of tensors and modules.

They return tensors on the device of the network, so that ``to_floats`` can bring all of a log step
to the host with one synchronisation.
"""

from wnrl.arguments import guard
from wnrl.diagnostics.activations import dormant_share, effective_rank, recorded
from wnrl.diagnostics.hessian import Curvature, curvature, lanczos, ritz_values
from wnrl.diagnostics.state import preserve_state
from wnrl.diagnostics.transfer import to_floats
from wnrl.diagnostics.updates import Step, first_step, gradient_norms
from wnrl.diagnostics.weights import effective_weights, relative_change, weight_lengths

__all__ = [
    "Curvature", "Step", "curvature", "dormant_share", "effective_rank", "effective_weights",
    "first_step", "gradient_norms", "lanczos", "preserve_state", "recorded", "relative_change",
    "ritz_values", "to_floats", "weight_lengths",
]  # fmt: skip

guard(globals(), __all__)
