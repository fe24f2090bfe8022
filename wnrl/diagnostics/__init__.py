"""Measures of a network while it learns: pure functions of tensors and modules.

They return tensors on the device of the network, so that ``to_floats`` can bring all of a log step
to the host with one synchronisation.
"""

from wnrl.arguments import guard
from wnrl.diagnostics.activations import dormant_share as dormant_share
from wnrl.diagnostics.activations import effective_rank as effective_rank
from wnrl.diagnostics.activations import recorded as recorded
from wnrl.diagnostics.hessian import Curvature as Curvature
from wnrl.diagnostics.hessian import curvature as curvature
from wnrl.diagnostics.hessian import lanczos as lanczos
from wnrl.diagnostics.hessian import ritz_values as ritz_values
from wnrl.diagnostics.state import preserve_state as preserve_state
from wnrl.diagnostics.state import to_floats as to_floats
from wnrl.diagnostics.updates import Step as Step
from wnrl.diagnostics.updates import first_step as first_step
from wnrl.diagnostics.updates import gradient_norms as gradient_norms
from wnrl.diagnostics.weights import effective_weights as effective_weights
from wnrl.diagnostics.weights import relative_change as relative_change
from wnrl.diagnostics.weights import weight_lengths as weight_lengths

__all__ = guard(globals())
