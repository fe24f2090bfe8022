import math

import pytest
import torch

from tests.vae.exact import exact_log_p, tiny_images, tiny_vae
from tests.vae.tiny import build, images
from wnrl.errors import UsageError
from wnrl.vae import Elbo, VAEConfig, beta_elbo, dreg, elbo, iwae
from wnrl.vae.bounds import log_mean_exp
from wnrl.vae.objectives import share_of_beta

CHUNKS = [1, 3, 4, 7]  # of 7 samples


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def gradients(bound, model):
    return torch.autograd.grad(bound.mean(), list(model.parameters()))


def test_the_bound_of_one_sample_is_its_weight():
    log_weights = torch.randn(1, 5)
    torch.testing.assert_close(log_mean_exp(log_weights), log_weights.squeeze(0))


def test_the_bound_by_hand():
    weights = torch.tensor([[1.0], [2.0], [6.0]])
    assert log_mean_exp(weights.log()).item() == pytest.approx(math.log(3))


def test_half_precision_weights_are_joined_in_float32():
    weights = torch.full((4096, 1), -90.0).bfloat16()
    bound = log_mean_exp(weights)
    assert bound.dtype == torch.float32
    assert bound.item() == pytest.approx(-90, abs=1e-3)


def test_elbo_is_reconstruction_minus_kl_image_by_image():
    model, x = tiny_vae(), tiny_images().test.float()
    bound = elbo(model, x)
    assert bound.value.shape == (len(x),)
    assert torch.equal(bound.value, bound.reconstruction - bound.kl)


@torch.no_grad()
def test_closed_form_kl_and_sampled_log_weights_give_one_elbo():
    model, x = tiny_vae(), tiny_images().test[:8].float()
    closed = elbo(model, x, 4000, seeded()).value
    sampled = model.log_weights(x, 4000, seeded(1)).mean(0)
    torch.testing.assert_close(closed, sampled, atol=0.1, rtol=0)


@torch.no_grad()
def test_elbo_is_below_iwae_which_is_below_the_log_likelihood_and_tightens():
    model, x = tiny_vae(), tiny_images().test.float()
    log_p = exact_log_p(model, x).mean()
    weights = model.log_weights(x, 6000, seeded()).double()
    bounds = []
    for k in (1, 3, 30, 300):
        groups = weights.reshape(k, -1, len(x)).flatten(1)
        bounds.append(log_mean_exp(groups).mean())
    assert bounds == sorted(bounds)
    assert bounds[0] < log_p - 0.05  # the posterior is not exact, or nothing would be tested
    assert bounds[-1] < log_p
    assert log_p - bounds[-1] < 0.01


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("name", ["mlp", "mlp2", "draw"])
def test_chunks_have_the_value_and_gradient_of_all_samples_at_once(name, chunk):
    model, x = build(name, "weight").double(), images(name).double()
    source = seeded()
    bound = iwae(model, x, 7, source, chunk=chunk)
    state, parts, split = source.get_state(), [], seeded()
    for start in range(0, 7, chunk):
        parts.append(model.log_weights(x, min(chunk, 7 - start), split))
    whole = log_mean_exp(torch.cat(parts))
    torch.testing.assert_close(bound, whole, atol=0, rtol=0)
    for found, expected in zip(gradients(bound, model), gradients(whole, model), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-14, rtol=1e-12)
    assert torch.equal(source.get_state(), state)  # the backward pass drew nothing
    assert torch.equal(state, split.get_state())


def test_chunks_without_a_generator_draw_what_the_global_one_decides():
    model, x = build("mlp").double(), images("mlp").double()
    bounds = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        bounds += [iwae(model, x, 7, chunk=2), iwae(model, x, 7, chunk=2)]
    first, second, *again, other, _ = bounds
    assert torch.equal(torch.stack(again), torch.stack([first, second]))
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)


def test_no_pass_has_more_samples_than_a_chunk(monkeypatch):
    model, x, sizes = build("mlp"), images("mlp"), []
    decode = type(model).decode
    monkeypatch.setattr(
        type(model), "decode", lambda self, z: sizes.append(len(z)) or decode(self, z)
    )
    iwae(model, x, 7, seeded(), chunk=3).sum().backward()
    assert sorted(sizes) == [1, 1, 3, 3, 3, 3]  # forward, and again in the backward pass


def test_a_chunked_bound_keeps_no_activations():
    model, x, kept = build("mlp"), images("mlp"), {}
    for chunk in (None, 10):
        sizes = kept[chunk] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: sizes.append(t.numel() * t.is_floating_point()) or t,
            lambda t: t,
        ):
            iwae(model, x, 100, seeded(), chunk=chunk)
    assert sum(kept[10]) < 0.1 * sum(kept[None])


def test_iwae_refuses_no_samples_and_no_chunk():
    model, x = build("mlp"), images("mlp")
    with pytest.raises(UsageError, match="n_samples must be above zero, got 0"):
        iwae(model, x, 0)
    with pytest.raises(UsageError, match="chunk must be above zero, got 0"):
        iwae(model, x, 4, chunk=0)
    with pytest.raises(UsageError, match="n_samples must be above zero, got -1"):
        dreg(model, x, -1)


@pytest.mark.parametrize("name", ["mlp", "mlp2", "conv"])
def test_dreg_has_the_value_of_iwae_and_its_gradient_for_the_decoder(name):
    model, x = build(name, "weight").double(), images(name).double()
    single, double = (objective(model, x, 5, seeded()) for objective in (iwae, dreg))
    torch.testing.assert_close(double, single)
    names = [key for key, _ in model.named_parameters()]
    pairs = zip(names, gradients(double, model), gradients(single, model), strict=True)
    decoders = 0
    for key, found, expected in pairs:
        if "decoder" in key:
            torch.testing.assert_close(found, expected)
            decoders += 1
        else:
            assert not torch.allclose(found, expected)
    assert decoders


@pytest.mark.parametrize("name", ["mlp", "mlp2"])
def test_dreg_has_the_expected_gradient_of_iwae_for_the_encoder(name):
    sizes = {"mlp": {"latent_dim": 2}, "mlp2": {"latent_dims": (2, 2)}}[name]
    model = build(name, **sizes).double()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.mul_(3 if "decoder" in key else 1)
    x = images(name, 1).double().expand(2000, -1, -1, -1)
    encoders = [value for key, value in model.named_parameters() if "encoder" in key]
    found = {}
    for objective in (iwae, dreg):
        draws = []
        for seed in range(24):
            bound = objective(model, x, 3, seeded(seed))
            draw = torch.autograd.grad(bound.mean(), encoders)
            draws.append(torch.cat([part.flatten() for part in draw]))
        found[objective] = torch.stack(draws)
    difference = found[iwae] - found[dreg]  # the same noise: paired
    error = difference.std(0) / len(difference) ** 0.5
    signal = found[iwae].mean(0)
    assert (difference.mean(0).abs() < 5 * error + 1e-12).all()
    assert (signal.abs() > 10 * error).float().mean() > 0.3  # a wrong factor would be seen
    assert found[dreg].var(0).sum() < found[iwae].var(0).sum()


def test_dreg_of_one_sample_follows_the_path_alone():
    # K = 1: the gradient of log p(x, z) - log q(z) through z, with q's own parameters held.
    model, x = build("mlp").double(), images("mlp").double()
    encoder = list(model.encoder.parameters())
    found = torch.autograd.grad(dreg(model, x, 1, seeded()).sum(), encoder)
    q = model.posterior(x)
    z = q.sample((1,), seeded())
    held = type(q)(q.mu.detach(), q.log_var.detach())
    expected = torch.autograd.grad(
        (model.log_joint(x, z) - held.log_prob(z).sum(-1)).sum(), encoder
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("norm", ["batch", "batch_renorm", "mean", "weight_mean"])
def test_dreg_refuses_samples_that_share_the_statistics_of_a_batch(norm):
    model, x = build("mlp", norm), images("mlp")
    with pytest.raises(UsageError, match=r"dreg needs samples .* encoder\.0\.norm takes"):
        dreg(model.train(), x, 3)
    assert dreg(model.eval(), x, 3).isfinite().all()


def example_bound():
    return Elbo(torch.tensor([-10.0, -20.0]), torch.tensor([[0.1, 3.0], [0.5, 1.0]]))


def test_beta_weighs_the_kl():
    bound = example_bound()
    torch.testing.assert_close(beta_elbo(bound), bound.value)
    torch.testing.assert_close(beta_elbo(bound, beta=2.0), torch.tensor([-16.2, -23.0]))
    torch.testing.assert_close(beta_elbo(bound, beta=0.0), bound.reconstruction)


def test_free_bits_per_example_by_hand():
    found = beta_elbo(example_bound(), free_bits=0.4, free_bits_per="example")
    torch.testing.assert_close(found, torch.tensor([-10 - 3.4, -20 - 1.5]))


def test_free_bits_per_group_compare_the_mean_over_the_batch():
    # The means are 0.3 and 2; only the first is filled up, for both images alike.
    found = beta_elbo(example_bound(), free_bits=0.4)
    torch.testing.assert_close(found, torch.tensor([-12.4, -22.4]))


@pytest.mark.parametrize("per", ["group", "example"])
def test_a_group_within_its_free_bits_gets_no_gradient(per):
    kl = torch.tensor([[0.1, 3.0], [0.2, 1.0]], requires_grad=True)
    bound = Elbo(torch.zeros(2), kl)
    (gradient,) = torch.autograd.grad(beta_elbo(bound, 1.0, 0.4, per).mean(), kl)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, -0.5], [0.0, -0.5]]))


def test_without_free_bits_both_ways_are_the_elbo_on_average():
    model, x = build("mlp"), images("mlp")
    bound = elbo(model, x, generator=seeded())
    for per in ("group", "example"):
        torch.testing.assert_close(beta_elbo(bound, free_bits_per=per), bound.value)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"beta": -1.0}, "beta must be zero or above, got -1.0"),
        ({"free_bits": math.nan}, "free_bits must be zero or above, got nan"),
        ({"free_bits_per": "groups"}, "free_bits_per must be one of group, example, got 'groups'"),
    ],
)
def test_what_makes_no_objective_is_refused(wrong, message):
    with pytest.raises(UsageError, match=message):
        beta_elbo(example_bound(), **wrong)


def test_the_weight_of_the_kl_rises_evenly_to_beta():
    config = VAEConfig(warm_up_epochs=0.5, beta=2.0)
    assert [config.beta * share_of_beta(config, step, 8) for step in (0, 1, 4, 9)] == [0, 0.5, 2, 2]
    assert share_of_beta(VAEConfig(), 0, 8) == 1
