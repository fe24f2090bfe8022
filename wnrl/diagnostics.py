"""What to watch in a normalized network while it learns."""

import torch
from torch import nn

from wnrl import tags


@torch.no_grad()
def weight_lengths(module: nn.Module) -> dict[str, float]:
    """Mean g and mean ‖v‖ of every weight-normalized weight, with one synchronisation.

    Under plain gradient descent ‖v‖ can only grow, which lowers the effective learning rate; under
    Adam it need not.

    Returns:
        ``norm/g/<weight>`` and ``norm/v/<weight>`` to their means over the output units; empty
        where no weight is normalized.
    """
    found: dict[str, torch.Tensor] = {}
    parameters = dict(module.named_parameters())
    for name, g in parameters.items():
        weight = name.removesuffix("_g")
        v = parameters.get(f"{weight}_v")
        if weight != name and v is not None:
            axes = [axis for axis, size in enumerate(g.shape) if size == 1]  # one g a unit
            found[f"{tags.NORM_G}/{weight}"] = g.mean()
            found[f"{tags.NORM_V}/{weight}"] = torch.linalg.vector_norm(v, dim=axes).mean()
    if not found:
        return {}
    return dict(zip(found, torch.stack([*found.values()]).tolist(), strict=True))
