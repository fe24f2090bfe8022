import pytest
import torch
from torch import nn

from wnrl import convert
from wnrl.errors import UsageError
from wnrl.vae import MLPVAE
from wnrl.vae.likelihoods import DiscretisedLogistic, LogisticMixture, NormalDensity
from wnrl.vae.models import TwoLayerVAE
from wnrl.vae.posteriors import DiagonalNormal, normal_log_prob, standard_normal_log_prob

IMAGE = (1, 2, 3)


def small(norm="none", **kwargs):
    torch.manual_seed(0)
    model = MLPVAE(IMAGE, (5, 4), 2, **kwargs)
    convert(model, norm)
    return model.eval()


def test_encoder_and_decoder_have_the_documented_shapes():
    model, x = small(), torch.zeros(3, *IMAGE)
    mu, log_var = model.encode(x)
    assert mu.shape == log_var.shape == (3, 2)
    assert model.decode(torch.zeros(7, 3, 2)).shape == (7, 3, *IMAGE)
    assert model.log_weights(x, 7).shape == (7, 3)
    assert model.sample(9).shape == (9, *IMAGE)
    assert model.reconstruct(x).shape == x.shape
    terms = model(x, 7)
    assert terms.reconstruction.shape == (7, 3)
    assert terms.log_ratio.shape == terms.kl.shape == (7, 3, 2)


def test_the_default_is_the_architecture_of_burda_et_al():
    model = MLPVAE((1, 28, 28))
    shapes = [tuple(part.weight.shape) for part in model.encoder if hasattr(part, "weight")]
    assert shapes == [(200, 784), (200, 200), (100, 200)]
    shapes = [tuple(part.weight.shape) for part in model.decoder if hasattr(part, "weight")]
    assert shapes == [(200, 50), (200, 200), (784, 200)]


def widths(net):
    """Of the input and of every linear layer."""
    layers = [part for part in net if hasattr(part, "weight")]
    return [layers[0].in_features, *(layer.out_features for layer in layers)]


def test_two_stochastic_layers_are_those_of_burda_et_al():
    model = TwoLayerVAE((1, 28, 28))
    nets = (model.encoder, model.upper_encoder, model.upper_decoder, model.decoder)
    assert [widths(net) for net in nets] == [
        [784, 200, 200, 2 * 100],
        [100, 100, 100, 2 * 50],
        [50, 100, 100, 2 * 100],
        [100, 200, 200, 784],
    ]
    for net in nets:
        assert [type(part) for part in net] == [nn.Linear, nn.Tanh] * 2 + [nn.Linear]


def test_decoders_mirror_their_encoders():
    model = TwoLayerVAE(IMAGE, (9, 8), (7, 5), (4, 3))
    assert widths(model.encoder)[1:-1] == widths(model.decoder)[-2:0:-1] == [9, 8]
    assert widths(model.upper_encoder)[1:-1] == widths(model.upper_decoder)[-2:0:-1] == [7, 5]


@pytest.mark.parametrize("norm", ["none", "weight", "batch", "layer"])
def test_decoding_samples_together_equals_decoding_them_one_by_one(norm):
    model, z = small(norm), torch.randn(4, 3, 2)
    one_by_one = torch.stack([model.decode(row) for row in z])
    torch.testing.assert_close(model.decode(z), one_by_one)


def test_batch_norm_in_train_mode_sees_the_samples_of_all_images_as_one_batch():
    model, x = small("batch").train(), torch.rand(3, *IMAGE).round()
    seen = []
    model.decoder[0].norm.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    model.log_weights(x, 5)
    assert seen == [(5 * 3, 4)]


def test_output_bias_starts_at_the_logit_of_the_clipped_training_mean():
    means = torch.tensor([0.0, 0.0005, 0.25, 0.5, 0.9995, 1.0])
    model = small()
    model.start_at(means.reshape(IMAGE))
    bias = model.decoder[-1].bias
    expected = torch.tensor([0.001, 0.001, 0.25, 0.5, 0.999, 0.999])
    torch.testing.assert_close(bias.sigmoid(), expected)


def test_log_weights_are_log_joint_minus_log_posterior_of_the_same_samples():
    model, x = small(), torch.ones(3, *IMAGE)
    weights = model.log_weights(x, 4, torch.Generator().manual_seed(5))
    mu, log_var = model.encode(x)
    noise = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(5))
    z = mu + (log_var / 2).exp() * noise
    log_likelihood = model.likelihood.log_prob(x, model.decode(z))
    log_joint = log_likelihood + standard_normal_log_prob(z).sum(-1)
    torch.testing.assert_close(weights, log_joint - normal_log_prob(z, mu, log_var).sum(-1))
    torch.testing.assert_close(model.log_joint(x, z), log_joint)


def test_one_stochastic_layer_has_its_kl_in_closed_form():
    model, x = small(), torch.ones(3, *IMAGE)
    kl = DiagonalNormal(*model.encode(x)).kl()
    torch.testing.assert_close(model(x, 4).kl, kl.expand(4, 3, 2))


def test_samples_are_probabilities():
    means = small().sample(100)
    assert ((means > 0) & (means < 1)).all()


@pytest.mark.parametrize("likelihood", [DiscretisedLogistic, LogisticMixture, NormalDensity])
def test_the_likelihood_decides_the_parameters_of_the_decoder(likelihood):
    chosen = likelihood(3)
    model = MLPVAE((3, 2, 2), (5,), 2, likelihood=chosen)
    model.start_at(torch.rand(3, 2, 2))
    assert model.decode(torch.zeros(4, 2)).shape == (4, chosen.maps, 2, 2)
    x = torch.rand(6, 3, 2, 2)
    assert model.log_weights(x, 5).isfinite().all()
    assert model.sample(7).shape == (7, 3, 2, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLPVAE(IMAGE, (5,), 2, "tan"), r"activation must be one of .*mean 'tanh'"),
        (lambda: MLPVAE((28, 28)), r"image_shape must be a tuple of 3, got \(28, 28\)"),
        (
            lambda: TwoLayerVAE(IMAGE, latent_dims=(3,)),
            "latent_dims must be a tuple of 2",
        ),
        (lambda: TwoLayerVAE(IMAGE, latent_dims=(3, 0)), r"latent_dims\[1\] must be above zero"),
        (lambda: small().log_weights(torch.zeros(4, *IMAGE), 0), "n_samples must be above zero"),
        (lambda: MLPVAE((0, 2, 3)), r"image_shape\[0\] must be above zero, got 0"),
        (lambda: MLPVAE(IMAGE, latent_dim=0), "latent_dim must be above zero, got 0"),
        (
            lambda: MLPVAE((3, 2, 3), likelihood=DiscretisedLogistic(1)),
            "likelihood must be of 3 channels, .* got 1",
        ),
        (lambda: small().sample(0), "n must be above zero, got 0"),
        (lambda: small().encode(torch.zeros(4, *IMAGE).numpy()), "x must be a tensor, got ndarray"),
        (lambda: small().decode([0.0, 0.0]), "z must be a tensor, got list"),
        (lambda: small().encode(torch.zeros(4, 6)), r"shape \(B, 1, 2, 3\), got \(4, 6\)"),
        (
            lambda: MLPVAE(IMAGE, likelihood="logistic"),
            "must be a PixelLikelihood or None, got",
        ),
        (
            lambda: small()(torch.zeros(4, *IMAGE).byte()),
            "x must be torch.float32, as the model is, got torch.uint8",
        ),
        (
            lambda: small().encode(255 * torch.ones(4, *IMAGE)),
            r"x must be within \[0, 1\], grey levels / \(levels - 1\), got values from 255 to 255",
        ),
        (lambda: small().encode(torch.full((4, *IMAGE), torch.nan)), "got values from nan to nan"),
        (
            lambda: small().log_weights(torch.full((4, *IMAGE), 0.5), 2),
            "x must be zeros and ones for a Bernoulli: binarise the grey levels",
        ),
        (
            lambda: small().encode(torch.zeros(4, *IMAGE).double()),
            "x must be torch.float32, as the model is, got torch.float64",
        ),
        (
            lambda: small().double().decode(torch.zeros(4, 2)),
            "z must be torch.float64, as the model is, got torch.float32",
        ),
        (
            lambda: small().encode(torch.zeros(4, *IMAGE, device="meta")),
            "x must be on cpu, as the model is, got meta",
        ),
        (lambda: small().decode(torch.zeros(())), r"z must have shape \(..., 2\), got \(\)"),
        (lambda: small().decode(torch.zeros(4, 3)), r"z must have shape \(..., 2\), got \(4, 3\)"),
        (lambda: small()(torch.zeros(4, 1, 3, 2)), r"shape \(B, 1, 2, 3\), got \(4, 1, 3, 2\)"),
    ],
)
def test_what_makes_no_model_and_what_is_no_image_is_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()
