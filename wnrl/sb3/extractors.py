"""Features extractors for SB3's policies."""

from typing import Any

from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor

from wnrl.networks import MINATAR, cnn


class SmallCNN(BaseFeaturesExtractor):
    """The network of MinAtar's agents (Young & Tian, 2019, arXiv:1903.03176), for small images.

    One convolution of 16 windows of 3×3 and a hidden layer, each followed by a ReLU. SB3's own
    convolutions need images of 36×36 or more.

    Args:
        observation_space: channel-first images, ``(C, H, W)``.
        features_dim: units of the hidden layer.
    """

    def __init__(self, observation_space: spaces.Box, features_dim: int = 128) -> None:
        super().__init__(observation_space, features_dim)
        shape: Any = observation_space.shape
        self.net = cnn(shape, None, convs=MINATAR, hidden=(features_dim,))

    def forward(self, observations: Tensor) -> Tensor:
        """Features ``(B, features_dim)`` of images ``(B, C, H, W)`` with values from 0 to 1."""
        return self.net(observations)
