"""Probabilistic PCA (Tipping & Bishop 1999) as a VAE without hidden layers: log p(x) is known."""

import pytest
import torch
from torch.distributions import MultivariateNormal

from wnrl.vae import MLPVAE, dreg, elbo, iwae
from wnrl.vae.likelihoods import NormalDensity

IMAGE, Z, VARIANCE = (1, 2, 3), 2, 0.3


def ppca(orthogonal, widening=1.0):
    """X = W z + b + noise, with the exact posterior's mean, and its variance times ``widening``."""
    torch.manual_seed(0)
    model = MLPVAE(IMAGE, (), Z, likelihood=NormalDensity(1)).double()
    w = torch.randn(6, Z).double()
    w = torch.linalg.qr(w)[0] * torch.tensor([1.5, 0.7]) if orthogonal else w
    b = torch.rand(6).double()
    precision = torch.eye(Z) + w.T @ w / VARIANCE
    to_mean = torch.linalg.solve(precision, w.T / VARIANCE)
    variance = widening * torch.linalg.inv(precision).diagonal()
    encoder, decoder = model.encoder[-1], model.decoder[-1]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        decoder.weight[:6], decoder.bias[:6] = w, b
        decoder.bias[6:] = torch.tensor(VARIANCE, dtype=torch.float64).log()
        encoder.weight[:Z], encoder.bias[:Z] = to_mean, -to_mean @ b
        encoder.bias[Z:] = variance.log()
    covariance = w @ w.T + VARIANCE * torch.eye(6)
    x = MultivariateNormal(b, covariance).sample((8,))
    exact = MultivariateNormal(b, covariance).log_prob(x)
    return model, x.reshape(-1, *IMAGE), exact


@torch.no_grad()
def test_with_the_exact_posterior_every_importance_weight_is_the_likelihood():
    model, x, exact = ppca(orthogonal=True)
    torch.testing.assert_close(model.log_weights(x, 50), exact.expand(50, -1))


@torch.no_grad()
def test_with_many_samples_the_bound_is_the_likelihood_to_a_hundredth_of_a_nat():
    model, x, exact = ppca(orthogonal=False, widening=1.5)
    bound = iwae(model, x, 100_000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(bound, exact, atol=0.01, rtol=0)
    loose = elbo(model, x, 1000, torch.Generator().manual_seed(0)).value
    assert loose.mean() < exact.mean() - 0.1


def test_with_the_exact_posterior_dreg_has_no_noise_and_iwae_has():
    model, x, _ = ppca(orthogonal=True)
    weights = list(model.encoder.parameters())
    largest = {}
    for name, objective in (("iwae", iwae), ("dreg", dreg)):
        bound = objective(model, x, 3, torch.Generator().manual_seed(0))
        gradients = torch.autograd.grad(bound.mean(), weights)
        largest[name] = max(gradient.abs().max().item() for gradient in gradients)
    assert largest["dreg"] == pytest.approx(0, abs=1e-10)
    assert largest["iwae"] > 0.01
