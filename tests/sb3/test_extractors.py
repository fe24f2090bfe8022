import pytest
import torch
from gymnasium import spaces

from wnrl.errors import UsageError
from wnrl.sb3.extractors import SmallCNN


def test_images_of_ten_pixels_become_features():
    net = SmallCNN(spaces.Box(0, 255, (4, 10, 10)), features_dim=12)
    assert net(torch.rand(5, 4, 10, 10)).shape == (5, 12)
    assert net.features_dim == 12


def test_an_image_smaller_than_its_window_is_refused():
    with pytest.raises(UsageError, match="too small for the windows"):
        SmallCNN(spaces.Box(0, 255, (4, 2, 10)))
