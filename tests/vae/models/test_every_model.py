"""What holds for every model, under every norm where that can matter."""

import copy

import pytest
import torch

from tests.vae.tiny import HOMELESS, SIZES, build, grid_log_p, image_shape, images, sharpen
from wnrl import NORMS, convert, fold
from wnrl.nn import plain_parts
from wnrl.nn.normalizers import Normalized
from wnrl.vae.bounds import log_mean_exp
from wnrl.vae.likelihoods import DiscretisedLogistic, LogisticMixture, NormalDensity
from wnrl.vae.models import MODELS

STANDARDISED = [name for name in MODELS if name not in HOMELESS]
SMALL = [name for name in MODELS if name != "frames"]
every_model = pytest.mark.parametrize("name", MODELS)
every_norm = pytest.mark.parametrize("norm", NORMS)
TWO_LATENTS = {
    "mlp": ({"latent_dim": 2}, (2,)),
    "mlp2": ({"latent_dims": (1, 1)}, (2,)),
    "conv": ({"latent_dim": 2}, (2,)),
    "conv_iaf": ({"latent_dim": 2, "depth": 3}, (2,)),
    "draw": ({"latent_dim": 1, "draw_steps": 2}, (2, 1)),
    "draw_attention": ({"latent_dim": 1, "draw_steps": 2}, (2, 1)),
}


def two_latents(name):
    changes, shape = TWO_LATENTS[name]
    factor = 60.0 if name.startswith("draw") else 4.0  # DRAW's weights start from N(0, 0.01²)
    return sharpen(build(name, **changes), factor), shape


@every_norm
@every_model
def test_every_parameter_gets_a_gradient_of_the_bound(name, norm):
    model = build(name, norm).train()
    log_mean_exp(model.log_weights(images(name), 2)).mean().backward()
    for parameter, value in model.named_parameters():
        assert value.grad is not None, parameter
        assert value.grad.isfinite().all(), parameter
        assert value.grad.any(), parameter


@every_model
def test_normalizers_stand_behind_the_layers_that_the_model_says_are_hidden(name):
    plain = build(name)
    hidden = plain.hidden_layers()
    assert set(hidden) <= {path for path, _ in plain.named_modules()} - set(plain.output_layers())
    assert bool(hidden) != name.startswith("draw")
    parts = build(name, "layer").named_modules()
    assert {path for path, part in parts if isinstance(part, Normalized)} == set(hidden)


@pytest.mark.parametrize("norm", [key for key, norm in NORMS.items() if norm.paired])
@every_model
def test_a_norm_that_changes_nothing_at_the_start_gives_the_same_log_weights(name, norm):
    x = images(name)
    plain, normed = (
        build(name, key).log_weights(x, 2, torch.Generator().manual_seed(1))
        for key in ("none", norm)
    )
    torch.testing.assert_close(normed, plain, atol=1e-4, rtol=1e-5)


@every_norm
@every_model
def test_a_folded_model_gives_the_same_log_weights(name, norm):
    model, x = build(name, norm).eval(), images(name)
    found, folded = (
        m.log_weights(x, 2, torch.Generator().manual_seed(1)) for m in (model, fold(model))
    )
    torch.testing.assert_close(folded, found, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("norm", ["none", "weight", "spectral"])
@pytest.mark.parametrize("name", STANDARDISED)
def test_data_init_reaches_every_feed_forward_layer_but_the_last(name, norm):
    model, x = build(name, norm).train(), images(name, 8)
    before = {key: value.clone() for key, value in model.named_parameters()}
    model.data_init(x)
    kept = [key for key, value in model.named_parameters() if torch.equal(value, before[key])]
    biases = {key for key in before if key.endswith("bias") and key not in kept}
    last = model.output_layers()[-1]
    layers = {key for key in before if key.endswith("bias") and not key.startswith(last)}
    assert biases == layers
    assert model.eval().log_weights(x, 2).isfinite().all()


@pytest.mark.parametrize("norm", ["none", "weight"])
@pytest.mark.parametrize("name", STANDARDISED)
def test_data_init_standardises_the_encoders_head(name, norm):
    model, x = build(name, norm), images(name, 32)
    model.data_init(x)
    for output in model.encode(x):
        torch.testing.assert_close(output.mean(0), torch.zeros(output.shape[1]), atol=1e-3, rtol=0)
        spread = output.std(0, correction=0)
        torch.testing.assert_close(spread, torch.ones_like(spread), atol=1e-2, rtol=0)


@pytest.mark.parametrize("norm", ["none", "weight", "batch"])
@pytest.mark.parametrize("name", STANDARDISED)
def test_data_init_keeps_the_output_bias(name, norm):
    model, x = build(name, norm), images(name, 8)
    model.start_at(torch.full(image_shape(name), 0.2))
    head = list(model.decoder)[-1]
    before = copy.deepcopy(head.state_dict())
    model.data_init(x)
    assert all(torch.equal(value, before[key]) for key, value in head.state_dict().items())


@every_model
def test_each_sample_and_image_has_its_own_place(name, monkeypatch):
    def zeros(*shape, **options):
        options.pop("generator", None)
        return torch.zeros(*shape, **options)

    monkeypatch.setattr(torch, "randn", zeros)
    model, x = build(name).eval(), images(name)
    together = model.log_weights(x, 4)
    alone = torch.cat([model.log_weights(image.unsqueeze(0), 1) for image in x], 1)
    torch.testing.assert_close(together, alone.expand(4, 3), atol=1e-3, rtol=1e-5)


@every_model
def test_terms_have_their_documented_shapes(name):
    model, x = build(name), images(name)
    terms = model(x, 4)
    assert terms.reconstruction.shape == (4, 3)
    assert terms.log_ratio.shape == terms.kl.shape
    assert terms.kl.shape[:2] == (4, 3)
    assert torch.equal(terms.log_weights, model_weights(terms))
    mu, log_var = model.encode(x)
    assert mu.shape == log_var.shape
    assert len(mu) == 3
    assert model.reconstruct(x).shape == model.sample(3).shape == x.shape
    assert model.decode(model.draw_prior(5)).shape == (5, *model.params_shape)


def model_weights(terms):
    return terms.reconstruction - terms.log_ratio.sum(-1)


@every_model
def test_closed_form_kl_is_the_mean_of_the_log_ratio(name):
    model, x = build(name).eval(), images(name, 1)
    with torch.no_grad():
        # An untrained model has hardly any KL.
        for parameter in model.parameters() if name in HOMELESS else [list(model.encoder)[-1].bias]:
            parameter.add_(0.3 * torch.randn_like(parameter))
        terms = model(x, 40 if name == "frames" else 4000, torch.Generator().manual_seed(0))
    gap = (terms.log_ratio - terms.kl).squeeze(1)
    assert (gap.mean(0).abs() <= 4 * gap.std(0) / len(gap) ** 0.5).all()
    assert terms.kl.sum(-1).mean() > 0.05


@every_model
def test_the_generator_decides_the_samples(name):
    model, x = build(name).eval(), images(name)
    seeds = [torch.Generator().manual_seed(seed) for seed in (1, 1, 2)]
    first, again, other = (model.log_weights(x, 2, generator) for generator in seeds)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", TWO_LATENTS)
def test_importance_weights_average_to_the_likelihood(name):
    model, shape = two_latents(name)
    x = images(name)
    exact = grid_log_p(model, x, shape)
    with torch.no_grad():
        log_weights = model.log_weights(x, 8000, torch.Generator().manual_seed(0)).double()
    ratios = (log_weights - exact).exp()
    error = ratios.std(0) / len(ratios) ** 0.5
    assert (log_weights.std(0) > 0.01).all()  # the posterior is not exact: something is tested
    assert ((ratios.mean(0) - 1).abs() < 4 * error).all()
    torch.testing.assert_close(log_mean_exp(log_weights), exact, atol=0.05, rtol=0)


@pytest.mark.parametrize("name", TWO_LATENTS)
def test_elbo_is_below_iwae_which_is_below_the_likelihood(name):
    model, shape = two_latents(name)
    x = images(name)
    with torch.no_grad():
        log_weights = model.log_weights(x, 6000, torch.Generator().manual_seed(0))
    of_k = [log_mean_exp(log_weights.reshape(k, -1, 3)).mean(0) for k in (1, 5, 100)]
    assert (of_k[0] < of_k[1]).all()
    assert (of_k[1] < of_k[2]).all()
    assert (of_k[2] < grid_log_p(model, x, shape) + 0.01).all()


@pytest.mark.parametrize(
    ("name", "norm"),
    [*((name, "weight") for name in MODELS), ("mlp", "batch"), ("draw", "layer"), ("conv", "none")],
)
def test_log_weights_compile_as_one_graph(name, norm):
    torch.compiler.reset()
    model, x = build(name, norm).eval(), images(name)
    compiled = torch.compile(model.log_weights, fullgraph=True, backend="eager")
    torch.manual_seed(0)
    expected = model.log_weights(x, 2)
    torch.manual_seed(0)
    torch.testing.assert_close(compiled(x, 2), expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("norm", ["none", "weight"])
@every_model
def test_under_autocast_log_weights_are_float32_and_close(name, norm):
    model, x = build(name, norm).eval(), images(name)
    expected = model.log_weights(x, 2, torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mu, log_var = model.encode(x)
        found = model.log_weights(x, 2, torch.Generator().manual_seed(0))
    assert found.dtype == mu.dtype == log_var.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=0.3, rtol=0.02)


@pytest.mark.parametrize("likelihood", [DiscretisedLogistic, LogisticMixture, NormalDensity])
@pytest.mark.parametrize("name", SMALL)
def test_every_model_takes_every_likelihood_of_colour(name, likelihood):
    shape = (3, 4, 4)
    model = build(name, shape=shape, likelihood=likelihood(3))
    model.start_at(torch.rand(shape))
    assert model.log_weights(torch.rand(2, *shape), 2).isfinite().all()
    sampled = model.sample(5)
    assert sampled.shape == (5, *shape)
    assert ((sampled >= 0) & (sampled <= 1)).all()


@every_model
def test_an_untrained_model_draws_about_the_training_mean(name):
    means = torch.full(image_shape(name), 0.2)
    model = build(name)
    model.start_at(means)
    torch.manual_seed(0)
    sampled = model.sample(50)
    assert (sampled.mean(0) - means).abs().max() < 0.12


@every_model
def test_a_copy_and_a_loaded_state_give_the_same_function(name):
    model, x = build(name, "weight").eval(), images(name)
    other = build(name, "weight", seed=5).eval()
    other.load_state_dict(model.state_dict())
    found = [
        m.log_weights(x, 2, torch.Generator().manual_seed(0))
        for m in (model, copy.deepcopy(model), other)
    ]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("name", HOMELESS)
def test_draw_says_which_norms_find_no_place_in_it(name):
    for norm in HOMELESS[name]:
        model = MODELS[name](image_shape(name), **SIZES[name])
        with pytest.warns(UserWarning, match="left .* as they were"):
            convert(model, norm)
        assert "to_posterior" in plain_parts(model, norm)
