"""The singular vectors of target networks under spectral norm.

The loops of stable-baselines3 average the weights of a target, and copy its buffers named
``running_*``, the vectors u of spectral layers among them. But the first singular vector of
averaged weights is not that of the latest ones, and divided by too small a number a target's w has
a spectral norm above 1.

Averaged weights move slowly, so that one power iteration in each update, begun where the last one
ended, keeps a target's own vectors. Where weights were copied, as in DQN by
default, the copied vector is the better one, and is taken.
"""

import torch
from torch import nn

from wnrl.nn.spectral import Spectral, nearer_vector, power_iteration
from wnrl.sb3.parts import is_target


class TargetVectors(nn.Module):
    """The vectors u of one target, saved with the policy, and the hook that steps and uses them.

    Args:
        network: what the target follows.
        target: has spectral layers.
    """

    def __init__(self, network: nn.Module, target: nn.Module) -> None:
        super().__init__()
        self.used = [  # in tuples, so that the layers are not registered here as well
            (layer, name, f"u_{place}_{name}".replace(".", "_"))
            for place, layer in target.named_modules()
            if isinstance(layer, Spectral)
            for name in layer.normalized_names()
        ]
        for layer, name, own in self.used:
            self.register_buffer(own, layer.vector(name).clone())
        self.followed = (network,)
        target.register_forward_pre_hook(self.before)

    @torch.no_grad()
    def before(self, *_: object) -> None:
        """Pre-hook of the target: a step in updates, and the vectors as they are elsewhere."""
        for layer, name, own in self.used:
            weight, kept, used = getattr(layer, name), self.get_buffer(own), layer.vector(name)
            u = nearer_vector(weight, kept, used, layer.rows_dim)
            if self.followed[0].training:
                u = power_iteration(weight, u, layer.rows_dim)
                kept.copy_(u)
            used.copy_(u)


def keep_vectors(policy: nn.Module) -> None:
    """Gives a policy ``<target>_vectors`` for each of its targets that has spectral layers."""
    for name, target in list(policy.named_children()):
        if is_target(name) and any(isinstance(part, Spectral) for part in target.modules()):
            network = policy.get_submodule(name.removesuffix("_target"))
            policy.add_module(f"{name}_vectors", TargetVectors(network, target))
