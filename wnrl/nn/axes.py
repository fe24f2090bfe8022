"""Where a weight has its output units: in axis 0, but for transposed convolutions."""

from torch import Tensor, nn

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def transposed_groups(layer: nn.Module) -> int:
    """The number of groups of a plain transposed convolution; 0 for every other layer."""
    return layer.groups if isinstance(layer, TRANSPOSED) else 0


def units_first(weight: Tensor, groups: int) -> Tensor:
    """A view of ``weight``, or of what is shaped like it, that starts with the output units.

    Args:
        weight: of a plain layer.
        groups: what ``transposed_groups`` says of that layer.

    Returns:
        ``(out, in, …)`` as it is; of a transposed convolution, whose weight is
        ``(in, out / groups, …)``, ``(groups, out / groups, in / groups, …)``.
    """
    return weight.unflatten(0, (groups, -1)).transpose(1, 2) if groups else weight
