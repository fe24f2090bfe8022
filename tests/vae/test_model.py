import pytest
import torch

from wnrl import convert
from wnrl.errors import UsageError
from wnrl.vae import MLPVAE
from wnrl.vae.likelihoods import bernoulli_log_prob, normal_log_prob, standard_normal_log_prob


def small(norm="none", **kwargs):
    torch.manual_seed(0)
    model = MLPVAE(6, (5, 4), 2, **kwargs)
    convert(model, norm)
    return model.eval()


def test_encoder_and_decoder_have_the_documented_shapes():
    model = small()
    mu, log_var = model.encode(torch.zeros(3, 6))
    assert mu.shape == log_var.shape == (3, 2)
    assert model.decode(torch.zeros(7, 3, 2)).shape == (7, 3, 6)
    assert model.log_weights(torch.zeros(3, 6), 7).shape == (7, 3)
    assert model.sample(9).shape == (9, 6)


def test_decoder_mirrors_the_encoder():
    widths = [part.weight.shape[0] for part in small().decoder if hasattr(part, "weight")]
    assert widths == [4, 5, 6]


@pytest.mark.parametrize("norm", ["none", "weight", "batch", "layer"])
def test_decoding_samples_together_equals_decoding_them_one_by_one(norm):
    model, z = small(norm), torch.randn(4, 3, 2)
    one_by_one = torch.stack([model.decode(row) for row in z])
    torch.testing.assert_close(model.decode(z), one_by_one)


def test_output_bias_starts_at_the_logit_of_the_clipped_training_mean():
    means = torch.tensor([0.0, 0.0005, 0.25, 0.5, 0.9995, 1.0])
    bias = small(pixel_means=means).decoder[-1].bias
    expected = torch.tensor([0.001, 0.001, 0.25, 0.5, 0.999, 0.999])
    torch.testing.assert_close(bias.sigmoid(), expected)


def test_log_weights_are_log_joint_minus_log_posterior_of_the_same_samples():
    model, x = small(), torch.ones(3, 6)
    weights = model.log_weights(x, 4, torch.Generator().manual_seed(5))
    mu, log_var = model.encode(x)
    noise = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(5))
    z = mu + (log_var / 2).exp() * noise
    log_joint = bernoulli_log_prob(x, model.decode(z)) + standard_normal_log_prob(z)
    torch.testing.assert_close(weights, log_joint - normal_log_prob(z, mu, log_var))


def test_samples_are_probabilities():
    means = small().sample(100)
    assert ((means > 0) & (means < 1)).all()


def test_unknown_activation_is_refused_with_the_nearest_word():
    with pytest.raises(UsageError, match=r"activation must be one of .*did you mean 'tanh'"):
        MLPVAE(6, (5,), 2, "tan")
