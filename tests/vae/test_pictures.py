import pytest
import torch

from wnrl import data
from wnrl.vae import VAEConfig, build
from wnrl.vae.inputs import fixed_draw
from wnrl.vae.pictures import grid, reconstructions, samples


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def model(digits):
    return build(VAEConfig(hidden=(5,), latent_dim=2), digits).train()


def tile(picture, row, column):
    """The 8 × 8 image in a grid of tiles of 49 pixels, one pixel of each magnified one."""
    top, left = row * 49 + 1, column * 49 + 1
    return picture[:, top : top + 48 : 6, left : left + 48 : 6]


def test_grid_puts_images_row_by_row_and_magnifies_them():
    images = torch.rand(6, 1, 8, 8)
    picture = grid(images, columns=3)
    assert picture.shape == (1, 2 * 49 + 1, 3 * 49 + 1)
    assert torch.equal(tile(picture, 1, 2), images[5])
    assert torch.equal(tile(picture, 0, 1), images[1])


def test_grid_does_not_magnify_large_images():
    assert grid(torch.rand(2, 3, 64, 64), columns=2).shape == (3, 66, 131)


def test_grid_refuses_an_incomplete_row():
    with pytest.raises(ValueError, match="columns must divide the 5 images, got 2"):
        grid(torch.rand(5, 1, 8, 8), columns=2)


def test_reconstructions_stand_below_their_inputs(model, digits):
    picture = reconstructions(model, digits, columns=4, rows=2)
    x = fixed_draw(digits.valid[:8], 17, seed=0).float()
    decoded = model.decode(model.encode(x)[0]).sigmoid()
    for i in range(8):
        row, column = divmod(i, 4)
        assert torch.equal(tile(picture, 2 * row, column), x[i])
        torch.testing.assert_close(tile(picture, 2 * row + 1, column), decoded[i].detach())


def test_samples_are_the_same_at_every_call(model, digits):
    first = samples(model, digits)
    assert first.shape == (1, 4 * 49 + 1, 16 * 49 + 1)
    assert torch.equal(first, samples(model, digits))
    assert model.training
