import itertools
import math

import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from wnrl.vae.likelihoods import (
    bernoulli_log_prob,
    kl_from_standard_normal,
    normal_log_prob,
    standard_normal_log_prob,
)


def test_kl_of_two_gaussians_by_hand():
    # mu = 1, variance 4, and mu = -2, variance 1: (1 + 4 - 1 - ln 4) / 2 + 4 / 2
    kl = kl_from_standard_normal(torch.tensor([1.0, -2.0]), torch.tensor([math.log(4), 0.0]))
    assert kl.item() == pytest.approx((4 - math.log(4)) / 2 + 2, abs=1e-6)


def test_kl_agrees_with_torch_distributions():
    mu, log_var = torch.randn(5, 3).double(), torch.randn(5, 3).double()
    theirs = kl_divergence(Normal(mu, (log_var / 2).exp()), Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(kl_from_standard_normal(mu, log_var), theirs)


def test_kl_of_the_prior_from_itself_is_zero():
    assert kl_from_standard_normal(torch.zeros(3), torch.zeros(3)).item() == 0


def test_normal_log_prob_agrees_with_torch_distributions():
    z, mu, log_var = torch.randn(3, 4, 2).double()
    theirs = Normal(mu, (log_var / 2).exp()).log_prob(z).sum(-1)
    torch.testing.assert_close(normal_log_prob(z, mu, log_var), theirs)


def test_standard_normal_is_the_normal_at_zero_and_one():
    z = torch.randn(4, 3)
    zeros = torch.zeros(4, 3)
    torch.testing.assert_close(standard_normal_log_prob(z), normal_log_prob(z, zeros, zeros))


def test_bernoulli_probabilities_of_all_images_sum_to_one():
    logits = torch.randn(4).double()
    images = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4))).double()
    assert bernoulli_log_prob(images, logits).exp().sum().item() == pytest.approx(1)


def test_bernoulli_log_prob_agrees_with_torch_distributions():
    logits = torch.randn(5, 7).double()
    x = Bernoulli(logits=logits).sample()
    theirs = Bernoulli(logits=logits).log_prob(x).sum(-1)
    torch.testing.assert_close(bernoulli_log_prob(x, logits), theirs)


def test_bernoulli_log_prob_stays_finite_at_extreme_logits():
    logits = torch.tensor([1e4, -1e4])
    assert bernoulli_log_prob(torch.tensor([0.0, 0.0]), logits).item() == -1e4
    assert bernoulli_log_prob(torch.tensor([1.0, 0.0]), logits).item() == 0
