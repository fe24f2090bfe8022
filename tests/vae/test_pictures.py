from dataclasses import replace

import pytest
import torch

from wnrl import data, tags
from wnrl.errors import UsageError
from wnrl.vae import VAEConfig, build
from wnrl.vae.inputs import fixed_inputs
from wnrl.vae.pictures import (
    all_pictures,
    canvas,
    grid,
    reconstructions,
    samples,
    to_pixels,
    traversals,
)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def model(digits):
    return build(VAEConfig(hidden=(5,), latent_dim=2), digits).train()


def tile(picture, row, column):
    """The 8 × 8 image in a grid of tiles of 54 pixels, one pixel of each magnified one."""
    top, left = row * 54 + 6, column * 54 + 6
    return picture[:, top : top + 48 : 6, left : left + 48 : 6]


def test_grid_puts_images_row_by_row_and_magnifies_them():
    images = torch.rand(6, 1, 8, 8)
    picture = grid(images, columns=3)
    assert picture.shape == (1, 2 * 54 + 6, 3 * 54 + 6)
    assert torch.equal(tile(picture, 1, 2), images[5])
    assert torch.equal(tile(picture, 0, 1), images[1])


def test_of_more_channels_than_a_picture_has_the_first_three_are_shown():
    images = torch.rand(2, 5, 64, 64)
    torch.testing.assert_close(grid(images, columns=2), grid(images[:, :3], columns=2))


def test_grid_does_not_magnify_large_images():
    assert grid(torch.rand(2, 3, 64, 64), columns=2).shape == (3, 66, 131)


@pytest.mark.parametrize(("n", "rows", "columns"), [(5, 1, 5), (12, 1, 8), (40, 2, 8)])
def test_a_short_validation_split_has_a_smaller_picture(n, rows, columns, model, digits):
    picture = reconstructions(model, replace(digits, valid=digits.valid[:n]))
    assert picture.shape == (1, 2 * rows * 54 + 6, columns * 54 + 6)


def test_reconstructions_stand_below_their_inputs(model, digits):
    picture = reconstructions(model, digits, columns=4, rows=2)
    x = fixed_inputs(model.likelihood, digits.valid[:8], 17, seed=0)[0].float()
    decoded = model.decode(model.encode(x)[0]).sigmoid()
    for i in range(8):
        row, column = divmod(i, 4)
        assert torch.equal(tile(picture, 2 * row, column), x[i])
        torch.testing.assert_close(tile(picture, 2 * row + 1, column), decoded[i].detach())


def test_samples_are_the_same_at_every_call(model):
    first = samples(model)
    assert first.shape == (1, 4 * 54 + 6, 8 * 54 + 6)
    assert torch.equal(first, samples(model))
    assert model.training


@pytest.fixture(scope="module")
def drawing(digits):
    return build(VAEConfig("draw", draw_steps=3, norm="none"), digits)


def test_traversals_change_one_variable_a_row_from_minus_three_to_three(model):
    picture = traversals(model, columns=3)
    assert picture.shape == (1, 2 * 54 + 6, 3 * 54 + 6)
    start = model.draw_prior(1, torch.Generator().manual_seed(0))[0]
    effects = []
    for variable in range(2):
        ends = start.repeat(2, 1)
        ends[:, variable] = torch.tensor([-2.0, 2.0])
        low, high = model.eval().decode(ends).sigmoid()
        effects.append((high - low).abs().sum().item())
    strongest = max(range(2), key=effects.__getitem__)
    for row, variable in enumerate((strongest, 1 - strongest)):
        for column, value in enumerate((-3.0, 0.0, 3.0)):
            z = start.clone()
            z[variable] = value
            shown = model.decode(z.unsqueeze(0))[0].sigmoid().detach()
            torch.testing.assert_close(tile(picture, row, column), shown)
    model.train()


def test_traversals_are_refused_for_a_sequence_of_latents(drawing):
    with pytest.raises(UsageError, match="traversals are not for DRAW"):
        traversals(drawing)


def test_the_last_canvas_is_what_draw_samples(drawing):
    shown = canvas(drawing, rows=4)
    assert shown.shape == (1, 4 * 54 + 6, 3 * 54 + 6)
    z = drawing.draw_prior(4, torch.Generator().manual_seed(0))
    for row, last in enumerate(drawing.decode(z).sigmoid().detach()):
        torch.testing.assert_close(tile(shown, row, 2), last)


def test_canvases_of_many_steps_are_thinned_out_to_the_last(drawing):
    shown, whole = canvas(drawing, rows=2, most=2), canvas(drawing, rows=2)
    assert shown.shape == (1, 2 * 54 + 6, 2 * 54 + 6)
    for row in range(2):
        assert torch.equal(tile(shown, row, 0), tile(whole, row, 0))
        assert torch.equal(tile(shown, row, 1), tile(whole, row, 2))


def test_a_canvas_is_drawn_by_draw_alone(model):
    with pytest.raises(UsageError, match="canvas is for DRAW, got a MLPVAE"):
        canvas(model)


def test_every_model_has_its_pictures(model, drawing, digits):
    common = {tags.VAE_RECONSTRUCTIONS, tags.VAE_SAMPLES}
    assert set(all_pictures(model, digits)) == common | {tags.VAE_TRAVERSALS}
    assert set(all_pictures(drawing, digits)) == common | {tags.VAE_CANVAS}


def test_pixels_are_rounded_grey_levels_or_colours():
    grey = to_pixels(torch.tensor([[[0.0, 0.5, 1.0]]]))
    assert grey.tolist() == [[0, 128, 255]]
    assert to_pixels(torch.rand(3, 4, 5)).shape == (4, 5, 3)
