"""The network of DQN of one member."""

from typing import Any

from torch import nn

from wnrl.errors import UsageError
from wnrl.networks import MINATAR, NATURE_SIDE, cnn, mlp
from wnrl.population.config import MemberConfig
from wnrl.population.rows import Networks

FEATURES = 128
"""Of a picture, as ``SmallCNN`` has them."""


class QNetwork(Networks):
    """The network under the names that SB3's ``QNetwork`` has for its parts.

    In front of the layers of ``net_arch``, pictures go through those of ``SmallCNN``.

    Args:
        config: of the member.
        shape: of an observation: ``(n_inputs,)``, or ``(C, H, W)`` of a picture.
        n_outputs: actions.
        continuous: whether actions are real numbers.

    Raises:
        UsageError: they are, a picture is large, or the norm is for hidden layers, and there are
            none.
    """

    sees = (1, 3)
    sides = ("q_net",)

    def __init__(
        self, config: MemberConfig, shape: tuple[int, ...], n_outputs: int, continuous: bool
    ) -> None:
        super().__init__(shape)
        if continuous:
            raise UsageError(f"actions of {config.algorithm} must be Discrete, got a Box")
        features, width = _features(shape)
        if features:
            self.features_extractor = nn.ModuleDict({"net": nn.Sequential(*features)})
        self.q_net = mlp(width, config.net_arch, n_outputs, activation=config.activation_fn)
        self.heads = (f"q_net.{len(self.q_net) - 1}",)
        self.take_norm(config)

    def networks(self) -> list[nn.Sequential]:
        """Return the network."""
        if len(self.shape) == 1:
            return [self.q_net]
        features: Any = self.features_extractor["net"]
        return [nn.Sequential(*features, *self.q_net)]


def _features(shape: tuple[int, ...]) -> tuple[list[nn.Module], int]:
    """Return what pictures go through first, and how many numbers are behind it."""
    if len(shape) == 1:
        return [], shape[0]
    channels, height, width = shape
    if min(height, width) >= NATURE_SIDE:
        raise UsageError(
            f"pictures of a population must be smaller than {NATURE_SIDE} pixels, got {shape}"
        )
    return [*cnn((channels, height, width), None, convs=MINATAR, hidden=(FEATURES,))], FEATURES
