import itertools
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from wnrl.errors import UsageError
from wnrl.vae.likelihoods import (
    LIKELIHOODS,
    LOG_SCALE_RANGE,
    Bernoulli,
    DiscretisedLogistic,
    LogisticMixture,
    NormalDensity,
    bits_per_dim,
)
from wnrl.vae.pixels import trusted
from wnrl.vae.posteriors import DiagonalNormal, normal_log_prob, standard_normal_log_prob

EXTREMES = (-1e4, -30.0, -1.0, -0.3, 0.0, 1 / 255, 0.999, 1.0, 7.0, 1e4)


def all_levels(levels=256):
    """Every grey level as an image of one pixel, ``(levels, 1, 1, 1, 1)``."""
    return torch.linspace(0, 1, levels).reshape(-1, 1, 1, 1, 1)


def every_image(channels, levels):
    values = torch.linspace(0, 1, levels)
    return torch.cartesian_prod(*[values] * channels).reshape(-1, channels, 1, 1)


def maps(likelihood, n=200, spread=3.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(n, likelihood.maps, 1, 1, generator=generator)


def test_kl_of_two_gaussians_by_hand():
    # mu = 1, variance 4, and mu = -2, variance 1: (1 + 4 - 1 - ln 4) / 2 and 4 / 2
    kl = DiagonalNormal(torch.tensor([1.0, -2.0]), torch.tensor([math.log(4), 0.0])).kl()
    assert kl.tolist() == pytest.approx([(4 - math.log(4)) / 2, 2], abs=1e-6)


def test_kl_agrees_with_torch_distributions():
    mu, log_var = torch.randn(5, 3).double(), torch.randn(5, 3).double()
    theirs = kl_divergence(Normal(mu, (log_var / 2).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(DiagonalNormal(mu, log_var).kl(), theirs)


def test_kl_of_the_prior_from_itself_is_zero():
    assert torch.equal(DiagonalNormal(torch.zeros(3), torch.zeros(3)).kl(), torch.zeros(3))


def test_normal_log_prob_agrees_with_torch_distributions():
    z, mu, log_var = torch.randn(3, 4, 2).double()
    theirs = Normal(mu, (log_var / 2).exp()).log_prob(z)
    torch.testing.assert_close(normal_log_prob(z, mu, log_var), theirs)


def test_standard_normal_is_the_normal_at_zero_and_one():
    z, zeros = torch.randn(4, 3), torch.zeros(4, 3)
    torch.testing.assert_close(standard_normal_log_prob(z), normal_log_prob(z, zeros, zeros))


def test_bernoulli_probabilities_of_all_images_sum_to_one():
    images = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4))).double()
    params = torch.randn(1, 2, 2).double()
    log_probs = Bernoulli(1).log_prob(images.reshape(-1, 1, 2, 2), params)
    assert log_probs.shape == (16,)
    assert log_probs.exp().sum().item() == pytest.approx(1)


def test_bernoulli_by_hand():
    x = torch.tensor([1.0, 0.0]).reshape(1, 1, 2)
    logits = torch.tensor([0.25, 0.4]).logit().reshape(1, 1, 2)
    assert Bernoulli(1).log_prob(x, logits).item() == pytest.approx(math.log(0.25 * 0.6))


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_discretised_logistic_sums_to_one_over_its_levels(levels):
    likelihood = DiscretisedLogistic(1, levels)
    probabilities = likelihood.log_prob(all_levels(levels), maps(likelihood)).double().exp()
    torch.testing.assert_close(probabilities.sum(0), torch.ones(200).double(), atol=1e-5, rtol=0)


def test_discretised_logistic_sums_to_one_at_extreme_parameters():
    log_scales = (-100.0, *LOG_SCALE_RANGE, -5.0, -2.0, 0.0, 3.0, 100.0)
    params = torch.cartesian_prod(torch.tensor(EXTREMES), torch.tensor(log_scales))
    likelihood = DiscretisedLogistic(1)
    log_probs = likelihood.log_prob(all_levels(), params.reshape(-1, 2, 1, 1)).double()
    total = log_probs.exp().sum(0)
    # The rounding of x in float32, which the smallest scale magnifies a thousandfold.
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-4, rtol=0)


def test_discretised_logistic_is_the_difference_of_the_distribution_function():
    mean, log_scale = torch.tensor([0.3]).double(), torch.tensor([-1.5]).double()
    y = torch.linspace(-1, 1, 256).double()
    edges = torch.sigmoid((y[:-1] + 1 / 255 - mean) / log_scale.exp())
    expected = torch.cat([edges, torch.ones(1)]) - torch.cat([torch.zeros(1), edges])
    params = torch.stack([mean, log_scale]).reshape(2, 1, 1)
    found = DiscretisedLogistic(1).log_prob(all_levels().double(), params).flatten().exp()
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("channels", "levels"), [(1, 256), (2, 256), (3, 12)])
def test_mixture_sums_to_one_over_all_colours_of_a_pixel(channels, levels):
    likelihood = LogisticMixture(channels, levels, components=3)
    images = every_image(channels, levels)
    for params in maps(likelihood, n=5):
        total = likelihood.log_prob(images, params).double().exp().sum().item()
        assert total == pytest.approx(1, abs=1e-4)


def test_mixture_sums_to_one_at_extreme_parameters():
    likelihood = LogisticMixture(1)
    for value in EXTREMES:
        params = maps(likelihood, n=20) + value
        total = likelihood.log_prob(all_levels(), params).double().exp().sum(0)
        torch.testing.assert_close(total, torch.ones_like(total), atol=1e-4, rtol=0)


def test_a_mixture_of_one_component_in_grey_is_the_discretised_logistic():
    params = maps(DiscretisedLogistic(1))
    with_logit = torch.cat([torch.randn(200, 1, 1, 1), params], 1)
    torch.testing.assert_close(
        LogisticMixture(1, components=1).log_prob(all_levels(), with_logit),
        DiscretisedLogistic(1).log_prob(all_levels(), params),
    )


def test_mixture_by_hand():
    # Two components in two channels, the second mean shifted by tanh(a) times the first value.
    x = torch.tensor([0.2, 0.6]).reshape(2, 1, 1)
    components = [(0.3, (0.1, -0.2), (-2.0, -1.0), 0.7), (-0.4, (-0.5, 0.4), (-1.5, -0.5), -1.1)]
    single, total = DiscretisedLogistic(1), 0.0
    for logit, (first, second), (s1, s2), a in components:
        share = math.exp(logit) / (math.exp(0.3) + math.exp(-0.4))
        shifted = second + math.tanh(a) * (2 * 0.2 - 1)
        for value, mean, scale in ((0.2, first, s1), (0.6, shifted, s2)):
            pixel = torch.full((1, 1, 1), value)
            params = torch.tensor([mean, scale]).reshape(2, 1, 1)
            share *= single.log_prob(pixel, params).exp().item()
        total += share
    rows = [[logit, *means, *scales, a] for logit, means, scales, a in components]
    params = torch.tensor(rows).reshape(-1, 1, 1)
    found = LogisticMixture(2, components=2).log_prob(x, params).item()
    assert found == pytest.approx(math.log(total), abs=1e-5)


@pytest.mark.parametrize("key", LIKELIHOODS)
@pytest.mark.parametrize("size", [1e4, 100.0, 0.0])
def test_values_and_gradients_are_finite_at_extreme_parameters(key, size):
    likelihood = LIKELIHOODS[key](3)
    signs = torch.randint(-1, 2, (400, likelihood.maps, 1, 1)).float()
    params = (size * signs).requires_grad_()
    x = torch.randint(0, 2, (400, 3, 1, 1)).float()
    log_prob = likelihood.log_prob(x, params)
    (gradient,) = torch.autograd.grad(log_prob.sum(), params)
    assert log_prob.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("key", LIKELIHOODS)
def test_half_precision_parameters_are_scored_in_float32(key):
    likelihood = LIKELIHOODS[key](3)
    params = maps(likelihood, n=4).bfloat16()
    x = torch.randint(0, 2, (4, 3, 1, 1)).float()
    log_prob = likelihood.log_prob(x, params)
    assert log_prob.dtype == torch.float32
    torch.testing.assert_close(log_prob, likelihood.log_prob(x, params.float()), rtol=0, atol=0)
    assert likelihood.mean(params).dtype == torch.float32


@pytest.mark.parametrize("key", LIKELIHOODS)
def test_log_prob_sums_over_pixels_and_broadcasts_over_samples(key):
    likelihood = LIKELIHOODS[key](2)
    params, x = torch.randn(5, 3, likelihood.maps, 4, 6), torch.randint(0, 2, (3, 2, 4, 6)).float()
    log_prob = likelihood.log_prob(x, params)
    assert log_prob.shape == (5, 3)
    halves = [
        likelihood.log_prob(x[..., part], params[..., part])
        for part in (slice(0, 2), slice(2, None))
    ]
    torch.testing.assert_close(log_prob, sum(halves))


@pytest.mark.parametrize("key", LIKELIHOODS)
def test_mean_is_an_image_and_starts_at_the_pixel_means(key):
    likelihood = LIKELIHOODS[key](3)
    assert likelihood.mean(torch.randn(5, likelihood.maps, 2, 4)).shape == (5, 3, 2, 4)
    means = torch.rand(3, 2, 4) * 0.9 + 0.05
    start = likelihood.start(means)
    assert start.shape == (likelihood.maps, 2, 4)
    torch.testing.assert_close(likelihood.mean(start), means)


@pytest.mark.parametrize("key", LIKELIHOODS)
def test_mean_stays_an_image_at_extreme_parameters(key):
    likelihood = LIKELIHOODS[key](3)
    means = likelihood.mean(1e4 * torch.randn(50, likelihood.maps, 1, 1))
    assert ((means >= 0) & (means <= 1)).all()


def test_mean_of_a_coupled_mixture_is_its_expectation():
    # Narrow components, whose values are their means: first channel, then the one that follows it.
    params = torch.tensor([0.0, 0.5, 0.1, -7.0, -7.0, math.atanh(0.4)]).reshape(-1, 1, 1)
    mean = LogisticMixture(2, components=1).mean(params).flatten() * 2 - 1
    assert mean.tolist() == pytest.approx([0.5, 0.1 + 0.4 * 0.5], abs=1e-6)


def test_a_uniform_model_has_eight_bits():
    # One narrow component for each level.
    likelihood = LogisticMixture(1, components=256)
    params = torch.zeros(256, 3)
    params[:, 1] = torch.linspace(-1, 1, 256)
    params[:, 2] = -7
    image = torch.linspace(0, 1, 256).reshape(1, 16, 16)
    nats = -likelihood.log_prob(image, params.reshape(-1, 1, 1).expand(-1, 16, 16)).item()
    assert bits_per_dim(nats, (1, 16, 16), likelihood) == pytest.approx(8.0, abs=1e-3)


def test_bits_per_dim_by_hand():
    assert bits_per_dim(3 * 4 * 5 * math.log(256), (3, 4, 5), DiscretisedLogistic(3)) == (
        pytest.approx(8.0)
    )


def test_a_density_has_no_bits_per_dim():
    with pytest.raises(UsageError, match="need a probability, got a Gaussian density"):
        bits_per_dim(1.0, (1, 2, 2), NormalDensity(1))


def test_density_integrates_to_one():
    likelihood = NormalDensity(1)
    x = torch.linspace(-30, 30, 60001, dtype=torch.float64).reshape(-1, 1, 1, 1)
    for mean, log_var in ((0.3, -3.0), (1.0, 0.5), (0.0, -1e4)):
        params = torch.tensor([mean, log_var]).double().reshape(2, 1, 1)
        total = likelihood.log_prob(x, params).exp().sum() * 60 / 60000
        assert total.item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("key", LIKELIHOODS)
def test_shapes_that_would_be_broadcast_are_refused(key):
    likelihood = LIKELIHOODS[key](1)
    x, params = torch.zeros(5, 1, 4, 4), torch.zeros(5, likelihood.maps, 4, 4)
    for wrong_x, wrong_params in (
        (x, torch.zeros(5, likelihood.maps + 1, 4, 4)),
        (torch.zeros(5, 3, 4, 4), params),
        (torch.zeros(5, 1, 1, 4), params),
        (x.flatten(1), params),
    ):
        with pytest.raises(UsageError, match=r"shapes \(..., 1, H, W\) and"):
            likelihood.log_prob(wrong_x, wrong_params)


@pytest.mark.parametrize("key", ["bernoulli", "logistic", "logistic_mixture"])
@pytest.mark.parametrize("wrong", [255.0, -0.1, math.nan, math.inf])
def test_values_that_no_image_has_are_refused(key, wrong):
    likelihood, x = LIKELIHOODS[key](1), torch.zeros(5, 1, 4, 4)
    x[3, 0, 2, 1] = wrong
    with pytest.raises(UsageError, match=r"x must be within \[0, 1\].*, got values from"):
        likelihood.log_prob(x, torch.zeros(5, likelihood.maps, 4, 4))


def test_a_density_takes_any_number_but_no_nan():
    params = torch.zeros(2, 1, 1)
    assert NormalDensity(1).log_prob(torch.full((1, 1, 1), -30.0), params).isfinite()
    for wrong in (math.nan, math.inf):
        with pytest.raises(UsageError, match="got values from"):
            NormalDensity(1).log_prob(torch.full((1, 1, 1), wrong), params)


def test_grey_levels_are_no_binary_image():
    with pytest.raises(UsageError, match="x must be zeros and ones for a Bernoulli"):
        Bernoulli(1).log_prob(torch.full((1, 2, 2), 0.5), torch.zeros(1, 2, 2))


def test_values_are_looked_at_again_behind_what_trusts_them_and_in_other_threads():
    likelihood, grey, params = Bernoulli(1), torch.full((1, 2, 2), 7.0), torch.zeros(1, 2, 2)
    with trusted(), ThreadPoolExecutor() as threads:
        assert likelihood.log_prob(grey, params).isfinite()
        elsewhere = threads.submit(likelihood.log_prob, grey, params)
        assert isinstance(elsewhere.exception(), UsageError)
    with pytest.raises(UsageError, match="got values from 7 to 7"):
        likelihood.log_prob(grey, params)


@pytest.mark.parametrize("key", LIKELIHOODS)
def test_values_are_not_looked_at_where_there_are_none_to_look_at(key):
    likelihood = LIKELIHOODS[key](1)
    x, params = torch.zeros(5, 1, 4, 4), torch.zeros(5, likelihood.maps, 4, 4)
    over_images = torch.func.vmap(likelihood.log_prob)(x, params)
    torch.testing.assert_close(over_images, likelihood.log_prob(x, params))
    assert likelihood.log_prob(x.to("meta"), params.to("meta")).is_meta
    assert likelihood.log_prob(x[:0], params[:0]).shape == (0,)


@pytest.mark.parametrize("key", LIKELIHOODS)
def test_every_map_of_parameters_has_a_say(key):
    likelihood = LIKELIHOODS[key](4)
    params = maps(likelihood, n=50, spread=0.5).requires_grad_()
    x = torch.randint(0, 2, (50, 4, 1, 1)).float()
    (gradient,) = torch.autograd.grad(likelihood.log_prob(x, params).sum(), params)
    assert gradient.abs().amax((0, 2, 3)).min() > 1e-4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DiscretisedLogistic(0), "channels must be above zero, got 0"),
        (lambda: DiscretisedLogistic(1, 1), "levels must be at least 2, got 1"),
        (lambda: LogisticMixture(3, components=0), "components must be above zero, got 0"),
    ],
)
def test_a_likelihood_of_nothing_is_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()
