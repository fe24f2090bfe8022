import json
import math
from dataclasses import replace

import pytest
import torch

from tests.vae.exact import exact_log_p, tiny_images, tiny_vae
from wnrl import convert, data
from wnrl.errors import NonFiniteError, UsageError
from wnrl.vae import MLPVAE, Protocol, build, nll, preset
from wnrl.vae.likelihoods import DiscretisedLogistic
from wnrl.vae.measure import bounds_of_chunks, difference, evaluating


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def model(digits):
    return build(preset("mlp", "digits"), digits)


def test_nll_approaches_the_exact_likelihood_as_k_grows():
    model, images = tiny_vae(), tiny_images()
    exact = -exact_log_p(model, images.test.float())
    measured = nll(model, images, Protocol("tiny", n_samples=20_000))
    torch.testing.assert_close(measured.per_image_nll, exact, atol=0.05, rtol=0)
    assert measured.nll == pytest.approx(exact.mean().item(), abs=0.01)


def test_nll_falls_with_k_towards_the_likelihood_and_stays_below_minus_elbo():
    model, images = tiny_vae(), tiny_images(1000)
    x = images.test.float()
    exact = -torch.cat([exact_log_p(model, part) for part in x.split(50)]).mean().item()
    results = [nll(model, images, Protocol("tiny", n_samples=k)) for k in (1, 10, 100, 1000)]
    falling = [result.nll for result in results]
    assert falling == sorted(falling, reverse=True)
    assert falling[0] - falling[-1] > 0.05
    assert falling[-1] > exact - 0.01
    assert all(result.nll <= -result.elbo + 1e-12 for result in results)


def test_two_calls_are_equal_bit_for_bit(model, digits):
    protocol = Protocol("digits", n_samples=20)
    first, second = nll(model, digits, protocol), nll(model, digits, protocol)
    assert torch.equal(first.per_image_nll, second.per_image_nll)
    assert torch.equal(first.per_image_elbo, second.per_image_elbo)


def test_the_noise_seed_decides_the_importance_samples(model, digits):
    first, other = (
        nll(model, digits, Protocol("digits", n_samples=20, noise_seed=seed)) for seed in (0, 1)
    )
    assert not torch.equal(first.per_image_nll, other.per_image_nll)
    assert first.nll == pytest.approx(other.nll, abs=0.2)


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_a_model_left_in_train_mode_gives_the_same_nll(norm, digits):
    torch.manual_seed(0)
    model = MLPVAE((1, 8, 8), (10,), 2)
    convert(model, norm)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    protocol = Protocol("digits", n_samples=5)
    in_train = nll(model.train(), digits, protocol)
    assert model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(in_train.per_image_nll, nll(model.eval(), digits, protocol).per_image_nll)


def test_evaluating_puts_every_part_back_into_its_own_mode():
    model = tiny_vae().train()
    model.decoder.eval()
    before = [part.training for part in model.modules()]
    with evaluating(model):
        assert not any(part.training for part in model.modules())
    assert [part.training for part in model.modules()] == before
    assert True in before
    assert False in before


def test_evaluating_puts_the_mode_back_after_an_error():
    model = tiny_vae().train()
    with pytest.raises(KeyError), evaluating(model):
        raise KeyError
    assert model.training


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"split": "tset"}, "split must be one of train, valid, test, got 'tset'"),
        ({"n_samples": 2.5}, "n_samples must be a whole number, got 2.5"),
    ],
)
def test_a_protocol_that_nobody_can_follow_is_refused_when_it_is_made(wrong, message):
    with pytest.raises(UsageError, match=message):
        Protocol("digits", **wrong)


def test_joining_chunks_of_any_size_equals_one_logsumexp():
    weights = torch.randn(100, 7).double() * 30
    log_p, elbo = bounds_of_chunks(weights.split([1, 50, 9, 40]))
    torch.testing.assert_close(log_p, weights.logsumexp(0) - torch.tensor(100.0).double().log())
    torch.testing.assert_close(elbo, weights.mean(0))


def test_chunks_are_joined_in_double_precision():
    weights = torch.full((2**14, 1), -90.0)
    weights[0] = -80.0
    log_p, _ = bounds_of_chunks(weights.split(1))
    exact = weights.double().logsumexp(0) - torch.tensor(2.0**14).double().log()
    assert log_p.dtype == torch.float64
    torch.testing.assert_close(log_p, exact, atol=1e-9, rtol=0)


@pytest.mark.parametrize("n_samples", [3, 64, 100])
def test_no_pass_decodes_more_rows_than_allowed(model, digits, n_samples, monkeypatch):
    seen = []
    log_weights = MLPVAE.log_weights

    def watched(self, x, k, generator=None):
        seen.append((k, len(x)))
        return log_weights(self, x, k, generator)

    monkeypatch.setattr(MLPVAE, "log_weights", watched)
    result = nll(model, digits, Protocol("digits", n_samples=n_samples), rows=64)
    assert max(k * n_images for k, n_images in seen) <= 64
    assert sum(k * n_images for k, n_images in seen) == 300 * n_samples
    assert len(result.per_image_nll) == 300


def test_results_are_in_the_order_of_the_split(model, digits):
    one_pass = nll(model, digits, Protocol("digits", n_samples=500), rows=500 * 300)
    image_by_image = nll(model, digits, Protocol("digits", n_samples=500), rows=500)
    difference = (one_pass.per_image_nll - image_by_image.per_image_nll).abs()
    assert difference.max() < 0.2 < one_pass.per_image_nll.std()


def test_two_models_are_measured_on_the_same_binary_images(model, digits):
    protocol = Protocol("digits", n_samples=2)
    other = nll(MLPVAE((1, 8, 8), (3,), 1), digits, protocol)
    assert nll(model, digits, protocol).images_crc32 == other.images_crc32
    assert nll(model, digits, Protocol("digits", "valid", 2)).images_crc32 != other.images_crc32


def test_each_seed_decides_its_own_draw(model, digits):
    first, noise, binary = (
        nll(model, digits, Protocol("digits", n_samples=2, **seeds))
        for seeds in ({}, {"noise_seed": 1}, {"binarisation_seed": 1})
    )
    assert first.images_crc32 == noise.images_crc32 != binary.images_crc32
    assert not torch.equal(first.per_image_nll, noise.per_image_nll)


def test_every_block_of_images_has_noise_of_its_own(model, digits):
    alike = replace(digits, test=digits.test[:1].repeat(6, 1, 1, 1).clamp(max=0))
    found = nll(model, alike, Protocol("digits", n_samples=4), rows=4)
    assert len(found.per_image_nll.unique()) == 6


def test_record_names_everything_the_number_depends_on(model, digits):
    record = nll(model, digits, Protocol("digits", n_samples=3)).record()
    assert json.loads(json.dumps(record)) == {
        "dataset": "digits",
        "split": "test",
        "likelihood": "Bernoulli, from logits",
        "binarisation": "one draw for all models, seed 0",
        "K": 3,
        "N": 300,
        "mode": "eval",
        "weights": "raw",
        "noise_seed": 0,
        "images_crc32": "04b0285f",
    }


def test_standard_error_is_that_of_the_mean_over_images(model, digits):
    result = nll(model, digits, Protocol("digits", n_samples=3))
    assert result.standard_error == pytest.approx(result.per_image_nll.std().item() / 300**0.5)


def test_protocol_of_another_dataset_is_refused(model, digits):
    with pytest.raises(UsageError, match="'mnist', got 'digits'"):
        nll(model, digits, Protocol("mnist"))


def test_unknown_split_is_refused_with_the_nearest_word(model, digits):
    with pytest.raises(UsageError, match="did you mean 'test'"):
        nll(model, digits, Protocol("digits", split="tset"))


def test_active_units_are_those_whose_posterior_mean_the_images_move():
    model, images = tiny_vae(), tiny_images(1000)
    used = nll(model, images, Protocol("tiny", n_samples=2))
    assert (used.active_units, used.latent_units) == (1, 1)
    with torch.no_grad():
        model.encoder[-1].weight.zero_()
    assert nll(model, images, Protocol("tiny", n_samples=2)).active_units == 0


def test_binary_images_have_no_bits_per_dimension_and_grey_levels_have(digits):
    assert (
        nll(MLPVAE((1, 8, 8), (3,), 1), digits, Protocol("digits", n_samples=2)).bits_per_dim
        is None
    )
    model = MLPVAE((1, 8, 8), (3,), 1, likelihood=DiscretisedLogistic(1, 17))
    measured = nll(model, digits, Protocol("digits", n_samples=2))
    assert measured.bits_per_dim == pytest.approx(measured.nll / (64 * math.log(2)))


def test_grey_levels_reach_the_model_undrawn(digits):
    seen = []

    class Watching(MLPVAE):
        def log_weights(self, x, n_samples, generator=None):
            seen.append(x)
            return super().log_weights(x, n_samples, generator)

    model = Watching((1, 8, 8), (3,), 1, likelihood=DiscretisedLogistic(1, 17))
    nll(model, digits, Protocol("digits", n_samples=2))
    assert torch.equal((torch.cat(seen) * 16).round().to(torch.uint8), digits.test)


def test_a_likelihood_of_other_grey_levels_is_refused(digits):
    model = MLPVAE((1, 8, 8), (3,), 1, likelihood=DiscretisedLogistic(1, 256))
    with pytest.raises(UsageError, match="256 grey levels, and dataset 'digits' has 17"):
        nll(model, digits, Protocol("digits"))


def test_paired_differences_leave_out_what_the_images_differ_by(model, digits):
    hard = torch.randn(1000, generator=torch.Generator().manual_seed(0)).double() * 10 + 90
    noise = torch.randn(1000, generator=torch.Generator().manual_seed(1)).double()
    second = replace(nll(model, digits, Protocol("digits", n_samples=1)), per_image_nll=hard)
    found = difference(replace(second, per_image_nll=hard + 0.5 + noise), second)
    assert found.n_images == 1000
    assert found.mean == pytest.approx(0.5 + noise.mean().item())
    assert found.standard_error == pytest.approx(noise.std().item() / 1000**0.5)


def test_runs_on_other_images_with_another_k_or_of_densities_do_not_compare(model, digits):
    ours = nll(model, digits, Protocol("digits", n_samples=2))
    found = difference(ours, ours)
    assert (found.mean, found.standard_error, found.n_images) == (0, 0, 300)
    redrawn = nll(model, digits, Protocol("digits", n_samples=2, binarisation_seed=1))
    with pytest.raises(UsageError, match=r"differ in their images \(images_crc32\): 04b0285f and"):
        difference(ours, redrawn)
    with pytest.raises(UsageError, match="differ in their K: 2 and 3"):
        difference(ours, nll(model, digits, Protocol("digits", n_samples=3)))
    with pytest.raises(UsageError, match="differ in their likelihood: probability and density"):
        difference(ours, replace(ours, scores="density"))


def test_autocast_around_it_does_not_change_the_number(model, digits):
    protocol = Protocol("digits", n_samples=3)
    with torch.autocast("cpu", torch.bfloat16):
        inside = nll(model, digits, protocol)
    assert torch.equal(inside.per_image_nll, nll(model, digits, protocol).per_image_nll)


def test_a_model_in_double_precision_is_measured_in_it(digits):
    model = build(preset("mlp", "digits"), digits)
    protocol = Protocol("digits", n_samples=200)
    single, double = nll(model, digits, protocol), nll(model.double(), digits, protocol)
    assert single.nll == pytest.approx(double.nll, abs=0.1)


def test_a_likelihood_that_is_not_finite_is_an_error_and_no_number(digits):
    model = MLPVAE((1, 8, 8), (3,), 1)
    with torch.no_grad():
        model.decoder[0].bias[0] = math.nan
    with pytest.raises(NonFiniteError, match="300 of 300 test images is not finite"):
        nll(model, digits, Protocol("digits", n_samples=2))


def test_a_split_without_images_is_refused(model, digits):
    empty = replace(digits, valid=digits.valid[:0])
    with pytest.raises(UsageError, match="split 'valid' of dataset 'digits' has no images"):
        nll(model, empty, Protocol("digits", "valid", 2))


def test_unknown_weights_are_refused():
    with pytest.raises(UsageError, match="did you mean 'averaged'"):
        Protocol("digits", weights="average")


@pytest.mark.parametrize("n_samples", [0, -1])
def test_too_few_samples_are_refused(n_samples):
    with pytest.raises(UsageError, match=f"n_samples must be above zero, got {n_samples}"):
        Protocol("digits", n_samples=n_samples)
