import zlib

import torch

from wnrl import data
from wnrl.vae import LIKELIHOODS
from wnrl.vae.inputs import binarise, fixed_inputs


def fixed_draw(pixels, levels, seed):
    return fixed_inputs(LIKELIHOODS["bernoulli"](1), pixels, levels, seed)[0]


def test_pixels_are_on_in_proportion_to_their_grey_level():
    pixels = torch.arange(17, dtype=torch.uint8).repeat(20000, 1)
    share = binarise(pixels, 17, torch.Generator().manual_seed(0)).mean(0)
    torch.testing.assert_close(share, torch.arange(17) / 16, atol=0.015, rtol=0)  # 4 sigma


def test_black_is_always_off_and_white_always_on():
    for levels in (2, 17, 256):
        pixels = torch.tensor([0, levels - 1], dtype=torch.uint8).repeat(100_000, 1)
        drawn = binarise(pixels, levels)
        assert drawn[:, 0].max() == 0
        assert drawn[:, 1].min() == 1


def test_every_use_draws_afresh_and_the_generator_decides():
    pixels = torch.full((1000,), 8, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    first, second = binarise(pixels, 17, generator), binarise(pixels, 17, generator)
    assert not torch.equal(first, second)
    assert torch.equal(first, binarise(pixels, 17, torch.Generator().manual_seed(0)))


def test_fixed_draw_depends_on_its_seed_alone():
    pixels = data.load("digits").test
    torch.manual_seed(1)
    first = fixed_draw(pixels, 17, seed=0)
    torch.manual_seed(2)
    assert torch.equal(first, fixed_draw(pixels, 17, seed=0))
    assert not torch.equal(first, fixed_draw(pixels, 17, seed=1))


def test_fixed_draw_leaves_the_global_random_state_alone():
    before = torch.random.get_rng_state()
    fixed_draw(torch.full((1000,), 8, dtype=torch.uint8), 17, seed=0)
    assert torch.equal(before, torch.random.get_rng_state())


def test_binary_digits_of_the_test_split_are_the_same_for_ever():
    images = fixed_draw(data.load("digits").test, 17, seed=0)
    assert f"{zlib.crc32(images.numpy().tobytes()):08x}" == "04b0285f"
