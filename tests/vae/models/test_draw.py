import math

import pytest
import torch
from torch import nn

from tests.vae.tiny import build, images
from wnrl.errors import UsageError
from wnrl.nn import WNLSTMCell
from wnrl.vae import dreg
from wnrl.vae.models import DRAW
from wnrl.vae.models.attention import Window, window_head

HEIGHT, WIDTH, N = 7, 9, 3


def places(n=4, seed=0, spread=0.7):
    return spread * torch.randn(n, 5, generator=torch.Generator().manual_seed(seed))


def filters_by_loop(where, n=N, height=HEIGHT, width=WIDTH):
    """Equations 19 to 26, number by number; pixels count from 1, as they do there."""
    g_y, g_x, log_var, log_stride, _ = where.tolist()
    stride = (max(height, width) - 1) / (n - 1) * math.exp(log_stride)
    result = []
    for centre, size in ((g_y, height), (g_x, width)):
        middle, rows = (size + 1) / 2 * (centre + 1), []
        for i in range(1, n + 1):
            mean = middle + (i - n / 2 - 0.5) * stride
            weights = [
                math.exp(-((a - mean) ** 2) / (2 * math.exp(log_var))) for a in range(1, size + 1)
            ]
            rows.append([w / sum(weights) for w in weights])
        result.append(rows)
    return result


def test_reading_is_the_direct_sum_over_all_pixels():
    where, x = places(), torch.randn(4, 2, HEIGHT, WIDTH)
    read = Window.place(where, N, HEIGHT, WIDTH).read(x)
    for r in range(4):
        vertical, horizontal = filters_by_loop(where[r])
        for c in range(2):
            for i in range(N):
                for j in range(N):
                    total = sum(
                        vertical[i][b] * x[r, c, b, a].item() * horizontal[j][a]
                        for b in range(HEIGHT)
                        for a in range(WIDTH)
                    )
                    assert read[r, c, i, j].item() == pytest.approx(total, abs=1e-5)


def test_writing_is_the_direct_sum_over_all_filters():
    where, patches = places(), torch.randn(4, 2, N, N)
    written = Window.place(where, N, HEIGHT, WIDTH).write(patches)
    for r in range(4):
        vertical, horizontal = filters_by_loop(where[r])
        for b in range(HEIGHT):
            for a in range(WIDTH):
                total = sum(
                    vertical[i][b] * patches[r, 1, i, j].item() * horizontal[j][a]
                    for i in range(N)
                    for j in range(N)
                )
                assert written[r, 1, b, a].item() == pytest.approx(total, abs=1e-5)


def test_a_filter_sums_to_one_and_has_a_gradient_however_far_outside_it_is():
    where = torch.tensor([[50.0, -50.0, -20.0, 3.0, 0.0], [0.0, 0.0, 20.0, -9.0, 1.0]])
    where.requires_grad_()
    window = Window.place(where, N, HEIGHT, WIDTH)
    for filters in (window.vertical, window.horizontal):
        torch.testing.assert_close(filters.sum(-1), torch.ones(2, N))
    (gradient,) = torch.autograd.grad(window.read(torch.randn(2, 1, HEIGHT, WIDTH)).sum(), where)
    assert gradient.isfinite().all()


def test_a_sharp_window_over_everything_reads_the_corners_and_the_centre():
    x = torch.arange(49.0).reshape(1, 1, 7, 7)
    window = Window.place(torch.tensor([[0.0, 0.0, -9.0, 0.0, 0.7]]), 3, 7, 7)
    assert window.read(x).flatten().tolist() == [0, 3, 6, 21, 24, 27, 42, 45, 48]
    assert window.gain.item() == pytest.approx(math.exp(0.7))


def looked_at(model, x, error, h):
    """Equation 17 without attention, 27 with it."""
    if not hasattr(model.read, "where"):
        return torch.cat([x.flatten(1), error.flatten(1)], 1)
    rows = []
    for i, where in enumerate(model.read.where(h)):
        vertical, horizontal = map(torch.tensor, filters_by_loop(where, 2, *x.shape[2:]))
        seen = [vertical @ image[i, 0] @ horizontal.T * where[4].exp() for image in (x, error)]
        rows.append(torch.cat([part.flatten() for part in seen]))
    return torch.stack(rows)


def written(model, h, shape):
    """Equation 18 without attention, 29 with it."""
    if not hasattr(model.write, "where"):
        return model.write.what(h).reshape(shape)
    rows = []
    for where, patch in zip(model.write.where(h), model.write.what(h), strict=True):
        vertical, horizontal = map(torch.tensor, filters_by_loop(where, 5, *shape[2:]))
        rows.append(vertical.T @ patch.reshape(5, 5) @ horizontal / where[4].exp())
    return torch.stack(rows).reshape(shape)


def by_loop(model, x, noise):
    """DRAW's equations 3 to 8, step by step."""
    n, size = len(x), model.hidden_size
    canvas = model.first_canvas.expand(n, -1, -1, -1)
    h_enc = c_enc = h_dec = c_dec = torch.zeros(n, size)
    log_weight = torch.zeros(n)
    for eps in noise:
        error = x - torch.sigmoid(canvas)
        glimpse = torch.cat([looked_at(model, x, error, h_dec), h_dec], 1)
        h_enc, c_enc = model.encoder(glimpse, (h_enc, c_enc))
        mu, log_var = model.to_posterior(h_enc).chunk(2, 1)
        z = mu + (log_var / 2).exp() * eps
        log_weight = log_weight - 0.5 * (z**2 - eps**2 - log_var).sum(1)
        h_dec, c_dec = model.decoder(z, (h_dec, c_dec))
        canvas = canvas + written(model, h_dec, x.shape)
    log_p = x * nn.functional.logsigmoid(canvas) + (1 - x) * nn.functional.logsigmoid(-canvas)
    return canvas, log_weight + log_p.sum((1, 2, 3))


@torch.no_grad()
@pytest.mark.parametrize("name", ["draw", "draw_attention"])
def test_drawing_is_the_papers_recursion(name):
    model, x = build(name), images(name)
    for parameter in model.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    noise = model.standard_noise((3, 3, 3), torch.Generator().manual_seed(4))
    canvas, log_weights = by_loop(model, x, noise)
    torch.testing.assert_close(model.draw(x, noise).canvas, canvas)
    found = model.log_weights(x, 1, torch.Generator().manual_seed(4))
    torch.testing.assert_close(found[0], log_weights)


@pytest.mark.parametrize("name", ["draw", "draw_attention"])
def test_canvases_of_the_drawn_latents_are_those_that_were_drawn(name):
    model, x = build(name), images(name)
    drawing = model.draw(x, torch.randn(3, 3, 3))
    assert drawing.z.shape == (3, 3, 3)
    canvases = model.canvases(drawing.z)
    assert canvases.shape == (3, *x.shape)
    torch.testing.assert_close(canvases[-1], drawing.canvas)
    assert torch.equal(model.decode(drawing.z), canvases[-1])
    for step in (1, 2):
        torch.testing.assert_close(canvases[step - 1], model.decode(drawing.z[:, :step]))
    assert model.canvases(torch.randn(2, 5, 4, 3)).shape == (4, 2, 5, *x.shape[1:])


def test_the_first_step_does_not_depend_on_later_ones():
    model, x = build("draw_attention"), images("draw_attention")
    drawing = model.draw(x, torch.randn(3, 3, 3))
    mu, log_var = model.encode(x)
    torch.testing.assert_close(mu, drawing.q.mu[:, 0])
    torch.testing.assert_close(log_var, drawing.q.log_var[:, 0])


def test_steps_decide_how_long_it_draws():
    model, x = build("draw", draw_steps=5), images("draw")
    assert model(x, 2).kl.shape == (2, 3, 5)
    assert model.draw_prior(4).shape == (4, 5, 3)


def test_weights_start_small_and_biases_at_zero():
    torch.manual_seed(0)
    model = DRAW((1, 28, 28))
    assert (model.encoder.input_size, model.encoder.hidden_size) == (2 * 2 * 2 + 256, 256)
    assert (model.decoder.input_size, model.write.what.out_features) == (100, 5 * 5)
    for name, parameter in model.named_parameters():
        if "weight" in name:
            assert parameter.std().item() == pytest.approx(0.01, rel=0.1)
        elif "where" not in name:
            assert not parameter.any()


@pytest.mark.parametrize("n", [2, 5])
def test_at_first_the_filters_of_a_window_tile_the_image(n):
    head = window_head(7, n, 20, 20)
    head.weight.data.zero_()
    window = Window.place(head(torch.zeros(1, 7)), n, 20, 20)
    middles = (torch.arange(n) + 0.5) * 20 / n - 0.5
    squares = (torch.arange(20) - middles.unsqueeze(1)).square()
    filters = (-squares / (2 * (20 / n / 2) ** 2)).exp()
    filters /= filters.sum(1, keepdim=True)
    torch.testing.assert_close(window.vertical[0], filters)
    torch.testing.assert_close(window.horizontal[0], filters)
    assert window.gain.item() == 1


def test_the_first_glimpse_sees_what_is_away_from_the_borders():
    torch.manual_seed(0)
    model, x = DRAW((1, 28, 28)), torch.zeros(2, 1, 28, 28)
    x[1, :, 8:20, 12:16] = 1
    model.log_weights(x, 1).sum().backward()
    empty, full = model.read(x, x, torch.zeros(2, 256))
    assert (full - empty).min() > 0.01
    assert model.read.where.bias.grad.abs().max() > 1e-5


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("grad", [True, False])
def test_weights_are_computed_once_for_all_steps(grad, monkeypatch):
    model, x = build("draw", "weight"), images("draw")
    calls = []
    compute = WNLSTMCell._compute
    monkeypatch.setattr(WNLSTMCell, "_compute", lambda cell: calls.append(cell) or compute(cell))
    with torch.set_grad_enabled(grad):
        model.log_weights(x, 2)
    assert len(calls) == len(set(calls)) == 2


def test_shared_weights_lose_no_gradient(monkeypatch):
    model, x = build("draw", "weight").double(), images("draw").double()

    def gradients():
        log_weights = model.log_weights(x, 1, torch.Generator().manual_seed(0))
        return torch.autograd.grad(log_weights.mean(), list(model.parameters()))

    shared = gradients()
    monkeypatch.setattr(DRAW, "_weights_once", lambda self: torch.enable_grad())
    for found, expected in zip(shared, gradients(), strict=True):
        torch.testing.assert_close(found, expected)


def test_latents_without_steps_are_refused():
    model = build("draw")
    for use in (model.decode, model.canvases):
        with pytest.raises(UsageError, match=r"z must have shape \(..., T, 3\), got \(3,\)"):
            use(torch.zeros(3))


def test_dreg_is_refused():
    with pytest.raises(UsageError, match="at its own samples only"):
        dreg(build("draw"), images("draw"), 2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"draw_steps": 0}, "draw_steps must be above zero, got 0"),
        ({"hidden_size": 0}, "hidden_size must be above zero, got 0"),
        ({"read_size": 1}, "must be at least 2, got 1, 5 and"),
    ],
)
def test_sizes_of_nothing_are_refused(wrong, message):
    with pytest.raises(UsageError, match=message):
        DRAW((1, 4, 4), **wrong)


def outputs(model, name, x, noise):
    """What a layer gives while images are drawn, over images and steps."""
    seen = []
    handle = model.get_submodule(name).register_forward_hook(lambda *args: seen.append(args[2]))
    with torch.no_grad():
        model.draw(x, noise)
    handle.remove()
    return torch.cat(seen)


def initialised(name, norm):
    """A model after ``data_init``, the images, and the noise that it was done with."""
    model, x = build(name, norm), images(name, 64)
    torch.manual_seed(5)
    model.data_init(x)
    torch.manual_seed(5)
    return model, x, model.standard_noise((model.n_steps, len(x), model.latent_dim), None)


@pytest.mark.parametrize("norm", ["none", "weight", "layer"])
@pytest.mark.parametrize("name", ["draw", "draw_attention"])
def test_data_init_standardises_posteriors_over_images_and_steps(name, norm):
    model, x, noise = initialised(name, norm)
    found = outputs(model, "to_posterior", x, noise)
    torch.testing.assert_close(found.mean(0), torch.zeros(6), atol=1e-2, rtol=0)
    wanted = torch.full((6,), 1 / model.n_steps)
    torch.testing.assert_close(found.std(0, correction=0), wanted, atol=0, rtol=1e-2)


@pytest.mark.parametrize("name", ["draw", "draw_attention"])
def test_data_init_leaves_cells_windows_and_the_canvas_alone(name):
    plain = build(name, "weight").state_dict()
    model, *_ = initialised(name, "weight")
    changed = {
        key for key, value in model.state_dict().items() if not torch.equal(value, plain[key])
    }
    assert {key.rpartition(".")[0] for key in changed} == {"to_posterior"}
