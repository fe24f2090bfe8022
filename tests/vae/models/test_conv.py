import pytest
import torch
from torch.nn import functional as F

from wnrl.errors import UsageError
from wnrl.vae.models import ConvVAE, FrameVAE
from wnrl.vae.models.conv import ResidualBlock


def test_a_residual_block_adds_a_tenth_of_its_branch():
    block, x = ResidualBlock(3), torch.randn(2, 3, 5, 5)
    _, first, _, second = block.branch
    torch.testing.assert_close(block(x), x + 0.1 * second(F.elu(first(F.elu(x)))))


def test_three_stages_of_two_blocks_with_16_32_and_32_maps_and_450_units():
    model, seen = ConvVAE((1, 28, 28)), []
    for half in (model.encoder, model.decoder):
        for name in ("stage1", "stage2", "stage3"):
            stage = half.get_submodule(name)
            assert [type(block) for block in stage] == [ResidualBlock, ResidualBlock]
            stage.register_forward_hook(lambda *args: seen.append(tuple(args[2].shape[1:])))
    assert model.encoder.units.out_features == model.decoder.units.out_features == 450
    model.log_weights(torch.zeros(2, 1, 28, 28), 1)
    sizes = [(16, 28, 28), (32, 14, 14), (32, 7, 7)]
    assert seen == sizes + sizes[::-1]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (2, 4, 12)])
def test_images_of_any_size_that_can_be_halved_twice(shape):
    assert ConvVAE(shape, 3).log_weights(torch.zeros(2, *shape), 4).shape == (4, 2)


def test_an_image_that_cannot_be_halved_twice_is_refused():
    with pytest.raises(UsageError, match=r"sides divisible by 4, got \(1, 8, 30\)"):
        ConvVAE((1, 8, 30))


def test_a_frame_that_is_not_64_by_64_is_refused():
    with pytest.raises(UsageError, match=r"must be \(C, 64, 64\), got \(3, 84, 84\)"):
        FrameVAE((3, 84, 84))


def test_frames_are_scored_in_256_levels():
    assert FrameVAE().likelihood.levels == 256
