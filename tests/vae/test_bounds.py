import math

import pytest
import torch

from tests.vae.exact import exact_log_p, tiny_images, tiny_vae
from wnrl.vae import elbo, iwae_bound


def test_iwae_bound_of_one_sample_is_the_difference():
    log_joint, log_posterior = torch.randn(2, 1, 5)
    torch.testing.assert_close(
        iwae_bound(log_joint, log_posterior), (log_joint - log_posterior).squeeze(0)
    )


def test_iwae_bound_by_hand():
    weights = torch.tensor([[1.0], [2.0], [6.0]])
    bound = iwae_bound(weights.log(), torch.zeros(3, 1))
    assert bound.item() == pytest.approx(math.log(3))


def test_iwae_bound_refuses_two_shapes():
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(3, 2\)"):
        iwae_bound(torch.zeros(2, 3), torch.zeros(3, 2))


def test_elbo_is_reconstruction_minus_kl_image_by_image():
    model, x = tiny_vae(), tiny_images().test.float()
    bound = elbo(model, x)
    assert bound.value.shape == (len(x),)
    assert torch.equal(bound.value, bound.reconstruction - bound.kl)


@torch.no_grad()
def test_closed_form_kl_and_sampled_log_weights_give_one_elbo():
    model, x = tiny_vae(), tiny_images().test[:8].float()
    many = x.repeat(4000, 1, 1, 1)
    closed = elbo(model, many, torch.Generator().manual_seed(0)).value.reshape(4000, 8).mean(0)
    sampled = model.log_weights(x, 4000, torch.Generator().manual_seed(1)).mean(0)
    torch.testing.assert_close(closed, sampled, atol=0.1, rtol=0)


@torch.no_grad()
def test_elbo_is_below_iwae_which_is_below_the_log_likelihood_and_tightens():
    model, x = tiny_vae(), tiny_images().test.float()
    log_p = exact_log_p(model, x).mean()
    weights = model.log_weights(x, 6000, torch.Generator().manual_seed(0)).double()
    zeros = torch.zeros_like
    bounds = []
    for k in (1, 3, 30, 300):
        groups = weights.reshape(k, -1, len(x)).flatten(1)
        bounds.append(iwae_bound(groups, zeros(groups)).mean())
    assert bounds == sorted(bounds)
    assert bounds[0] < log_p - 0.05  # the posterior is not exact, or nothing would be tested
    assert bounds[-1] < log_p
    assert log_p - bounds[-1] < 0.01
