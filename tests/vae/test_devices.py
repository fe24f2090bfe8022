"""What every device needs: nothing is made on the CPU, and no value is waited for.

On ``meta`` there are no values at all: who reads one, or mixes in a tensor of the CPU, fails.
"""

import pytest
import torch

from tests.emulated import Operations
from tests.vae.tiny import SIZES, build, image_shape
from wnrl import NORMS, data
from wnrl.vae import Trainer, VAEConfig, beta_elbo, dreg, elbo, iwae
from wnrl.vae import build as build_vae
from wnrl.vae.config import SAMPLES_ONLY
from wnrl.vae.likelihoods import LIKELIHOODS
from wnrl.vae.models import MODELS

OTHERS_ON_META = ("none", "weight_mean", "batch", "layer")


@pytest.mark.parametrize(
    ("name", "norm"),
    [*((name, "weight") for name in MODELS), *(("conv", norm) for norm in OTHERS_ON_META)],
)
def test_bounds_and_their_gradients_need_no_value_and_no_tensor_of_the_cpu(name, norm):
    model = build(name, norm).to("meta").train()
    x = torch.zeros(4, *image_shape(name), device="meta")
    bounds = [beta_elbo(elbo(model, x), 0.5, 0.1, "example"), iwae(model, x, 3)]
    if name not in SAMPLES_ONLY:
        bounds.append(dreg(model.eval(), x, 3))
    for bound in bounds:
        assert bound.shape == (4,)
        gradients = torch.autograd.grad(bound.mean(), list(model.parameters()))
        assert all(gradient.is_meta for gradient in gradients)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("name", SIZES)
def test_likelihoods_and_samples_stay_on_the_device(name, likelihood):
    shape = (3, 64, 64) if name == "frames" else (3, 4, 4)
    model = build(name, shape=shape, likelihood=LIKELIHOODS[likelihood](3)).to("meta")
    x = torch.zeros(2, *shape, device="meta")
    assert model.log_weights(x, 2).is_meta
    assert model.sample(2).is_meta
    assert model.reconstruct(x).is_meta


@pytest.mark.parametrize(
    ("model", "norm", "changes"),
    [
        *[("mlp", norm, {}) for norm in NORMS],
        ("mlp2", "weight", {"objective": "iwae", "train_samples": 3}),
        ("conv_iaf", "weight", {"ema_epochs": 1.0, "free_bits": 0.1, "amp": True}),
        ("draw_attention", "layer", {"draw_steps": 2, "max_grad_norm": 1.0}),
    ],
)
def test_a_training_step_reads_no_value(model, norm, changes):
    digits = data.load("digits")
    config = VAEConfig(model, norm=norm, batch_size=8, epochs=None, n_steps=4, **changes)
    trainer = Trainer(build_vae(config, digits), digits, config)
    trainer._advance()
    with Operations() as operations:
        trainer._advance()
    assert operations.reads == []


def test_reads_are_seen():
    with Operations() as operations:
        bool(torch.ones(2).nonzero().sum())
    assert len(operations.reads) == 2
