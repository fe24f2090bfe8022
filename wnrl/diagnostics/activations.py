"""What flows through a network: dormant units, and the rank of its features."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from wnrl import tags
from wnrl.diagnostics.state import hooked
from wnrl.diagnostics.weights import named_layers
from wnrl.errors import UsageError
from wnrl.limits import Share, limit
from wnrl.nn.functional import wide
from wnrl.nn.recurrence import Recurrent
from wnrl.nn.sites import NONLINEARITIES, layer_sites

RECURRENT = (nn.RNNBase, Recurrent)
TAU = 0.025
"""Of dormant units in networks that learn (Sokar et al., 2023)."""
Tau = Annotated[float, limit(lambda tau: tau >= 0, "at least 0")]


@torch.no_grad()
def dormant_share(activations: Tensor, tau: Tau = 0.0) -> Tensor:
    """Return the share of units whose mean |activation| is at most τ times the layer's mean.

    The τ-dormant units of Sokar et al. (2023, arXiv:2302.12902, definition 3.1):
    mean|a_i| / mean_i(mean|a_i|) ≤ τ. With τ = 0 they are those that are zero on every row, such
    as dead ReLUs; in a layer that is all zeros, every unit is dormant.

    Args:
        activations: ``(B, U, …)``: rows, units (channels), and positions of a feature map.
        tau: at least 0; the paper's is 0.025 for networks that learn, 0 counts dead units.

    Returns:
        A scalar within [0, 1].

    Raises:
        UsageError: ``tau`` is negative, or ``activations`` has fewer than two axes or no number.
    """
    if activations.dim() < 2 or activations.numel() == 0:
        raise UsageError(f"activations must be (B, U, ...), got shape {tuple(activations.shape)}")
    axes = [axis for axis in range(activations.dim()) if axis != 1]
    means = wide(activations).abs().mean(axes)  # (U,)
    return (means <= tau * means.mean()).to(means.dtype).mean()


@torch.no_grad()
def effective_rank(features: Tensor, share: Share = 0.99) -> Tensor:
    """Return how many singular values it takes to make up ``share`` of the sum of all.

    The effective rank of Kumar et al. (2021, arXiv:2010.14498, section 3), which falls when a
    network loses the power to tell its inputs apart. It is at most min(B, F): give it more rows
    than features.

    Args:
        features: ``(B, F)``, the inputs of an output layer; further axes count as features.
        share: above 0, at most 1.

    Returns:
        A scalar; 0 for features that are all zero, NaN for features that are not finite. On a GPU,
        the singular values alone make the host wait.

    Raises:
        UsageError: ``share`` is outside of (0, 1], or ``features`` has fewer than two axes or no
            number.
    """
    if features.dim() < 2 or features.numel() == 0:
        raise UsageError(f"features must be (B, F), got shape {tuple(features.shape)}")
    matrix = wide(features.flatten(1))
    finite = matrix.isfinite().all()
    # LAPACK raises an error for NaN, and a diverging run would end with its message.
    values = torch.linalg.svdvals(torch.where(finite, matrix, torch.zeros_like(matrix)))
    sums = values.cumsum(0)
    rank = (sums < share * sums[-1]).sum() + (sums[-1] > 0)
    return torch.where(finite, rank.to(matrix.dtype), torch.nan)


@dataclass
class Recorded:
    """Activations that ``recorded`` saw; rows of repeated calls stand one after the other."""

    hidden: dict[str, Tensor] = field(default_factory=dict)
    """From nonlinearities and recurrent layers by name, ``(B, U, …)``."""
    features: dict[str, Tensor] = field(default_factory=dict)
    """Inputs of the output layers by name, ``(B, F)``."""

    def measures(
        self, rows: Callable[[Tensor], Tensor] = lambda values: values
    ) -> dict[str, Tensor]:
        """Return shares of dormant and dead units and ranks of features, by TensorBoard's tags.

        Args:
            rows: picks from what was recorded the rows that count.
        """
        scalars = {}
        for name, values in self.hidden.items():
            scalars[f"{tags.DORMANT}/{name}"] = dormant_share(rows(values), TAU)
            scalars[f"{tags.DEAD}/{name}"] = dormant_share(rows(values))
        for name, values in self.features.items():
            scalars[f"{tags.RANK}/{name}"] = effective_rank(rows(values))
        return scalars


@contextmanager
def recorded(module: nn.Module, heads: Collection[str] = ()) -> Iterator[Recorded]:
    """Record the hidden activations of the forwards inside; filled when the context ends.

    Hidden are the outputs of nonlinearities that are modules, less those that directly follow an
    output layer, and of recurrent layers: theirs, ``(T, N, H)`` or ``(N, T, H)`` with
    ``batch_first``, become ``(N * T, H)``, sequence after sequence. The outputs of functions
    (``torch.relu``) are not seen.

    Args:
        module: what will run.
        heads: names of its output layers.

    Raises:
        UsageError: a head is no submodule of ``module``.
    """
    parts = dict(module.named_modules())
    unknown = sorted(set(heads) - parts.keys())
    if unknown:
        raise UsageError(f"heads must be submodules, got {', '.join(unknown)}")
    squashing = {
        id(site.following.layer)
        for site in layer_sites(module)
        if site.name in heads and site.following
    }
    hidden: dict[str, list[Tensor]] = defaultdict(list)
    features: dict[str, list[Tensor]] = defaultdict(list)

    def record(module: nn.Module, args: Any, output: Any, name: str, is_head: bool) -> None:
        if is_head:
            features[name].append(args[0].detach())
        elif isinstance(module, RECURRENT):
            hidden[name].append(_rows(output[0], module.batch_first))
        else:
            hidden[name].append(output.detach())

    hooks = {parts[name]: partial(record, name=name, is_head=True) for name in heads}
    for name, part in named_layers(module):
        if isinstance(part, RECURRENT) or (
            isinstance(part, NONLINEARITIES) and id(part) not in squashing
        ):
            hooks[part] = partial(record, name=name, is_head=False)
    recording = Recorded()
    with hooked("forward", hooks):
        yield recording
    recording.hidden |= {name: torch.cat(calls) for name, calls in hidden.items()}
    recording.features |= {name: torch.cat(calls) for name, calls in features.items()}


def _rows(output: Any, batch_first: bool) -> Tensor:
    """Return the output of a recurrent layer as rows, which packed data is already."""
    out: Tensor = getattr(output, "data", output).detach()
    if out.dim() == 3:
        out = (out if batch_first else out.transpose(0, 1)).flatten(0, 1)
    return out
