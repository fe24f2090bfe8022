import pytest
import torch
from torch import nn

from wnrl import nn as wn
from wnrl.errors import UsageError

TRANSPOSED = {1: wn.WNConvTranspose1d, 2: wn.WNConvTranspose2d, 3: wn.WNConvTranspose3d}
CONVOLUTIONS = {1: wn.WNConv1d, 2: wn.WNConv2d, 3: wn.WNConv3d}
every_dimension = pytest.mark.parametrize("n", [1, 2, 3])


@every_dimension
@pytest.mark.parametrize("groups", [1, 2])
def test_a_length_scales_its_output_channel_alone(n, groups):
    for layer in (
        CONVOLUTIONS[n](4, 6, 2, groups=groups, bias=False),
        TRANSPOSED[n](4, 6, 2, groups=groups, bias=False),
    ):
        x = torch.randn(1, 4, *[5] * n)
        before = layer(x)
        for channel in range(6):
            with torch.no_grad():
                layer.weight_g.view(-1)[channel] *= 2
            factors = torch.ones(6)
            factors[channel] = 2
            after = layer(x)
            torch.testing.assert_close(after, before * factors.view(1, 6, *[1] * n))
            before = after


@every_dimension
def test_the_length_of_a_transposed_convolution_counts_output_channels(n):
    assert TRANSPOSED[n](4, 6, 3).weight_g.shape == (1, 6, *[1] * n)
    assert TRANSPOSED[n](4, 6, 3, groups=2).weight_g.shape == (2, 3, *[1] * n)
    assert CONVOLUTIONS[n](4, 6, 3, groups=2).weight_g.shape == (6, *[1] * (n + 1))


@every_dimension
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [1, "same", "valid"])
def test_every_padding_is_torchs(n, mode, padding):
    plain = CONVOLUTIONS[n].plain_type(2, 3, 3, padding=padding, padding_mode=mode, dilation=2)
    layer = CONVOLUTIONS[n].from_plain(plain)
    x = torch.randn(1, 2, *[7] * n)
    assert torch.equal(layer(x), plain(x))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_an_uneven_padding_is_torchs():
    plain = nn.Conv2d(2, 3, (2, 4), padding="same", padding_mode="circular")
    x = torch.randn(1, 2, 7, 6)
    assert torch.equal(wn.WNConv2d.from_plain(plain)(x), plain(x))


@every_dimension
@pytest.mark.parametrize("size", [9, 10])
def test_the_output_size_of_a_transposed_convolution_is_torchs(n, size):
    plain = TRANSPOSED[n].plain_type(2, 3, 3, stride=2, padding=1, dilation=1)
    layer = TRANSPOSED[n].from_plain(plain)
    x = torch.randn(1, 2, *[5] * n)
    for wanted in ([size] * n, [1, 3, *[size] * n]):
        assert torch.equal(layer(x, wanted), plain(x, wanted))


def test_an_output_size_out_of_reach_is_refused():
    layer = wn.WNConvTranspose1d(2, 3, 3, stride=2)
    with pytest.raises(UsageError, match=r"^output_size: .* range from \[11\] to \[12\]"):
        layer(torch.randn(1, 2, 5), [13])
    with pytest.raises(UsageError, match=r"^output_size: .* must have 1 or 3 elements"):
        layer(torch.randn(1, 2, 5), [])


def test_an_image_without_batch_axis_is_taken():
    layer = wn.WNConv2d(2, 3, 3)
    x = torch.randn(2, 7, 7)
    assert torch.equal(layer(x), layer(x.unsqueeze(0))[0])


def test_channels_last_weights_give_the_same_numbers():
    layer = wn.WNConv2d(4, 6, 3)
    x = torch.randn(2, 4, 7, 7)
    expected = layer(x)
    moved = layer.to(memory_format=torch.channels_last)
    torch.testing.assert_close(moved(x.to(memory_format=torch.channels_last)), expected)
