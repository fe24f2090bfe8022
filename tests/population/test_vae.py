"""A cohort of VAEs learns what ``wnrl.vae.Trainer`` would teach each of its members alone."""

from dataclasses import replace

import pytest
import torch

from tests.emulated import Emulated, Operations
from tests.population.cohorts import assert_equal
from wnrl import data
from wnrl.diagnostics import weight_lengths
from wnrl.errors import UsageError
from wnrl.norms import NORMS
from wnrl.population import memory
from wnrl.population.states import part
from wnrl.population.vae import Draws, VAECohort
from wnrl.runs.files import read_values, write_values
from wnrl.vae import Trainer, VAEConfig, build

SMALL = VAEConfig(
    norm="none", hidden=(12, 9), latent_dim=4, epochs=None, n_steps=40, batch_size=16, n_logs=4
)
VARIANTS = {
    **{norm: {"norm": norm} for norm in NORMS},
    **{f"{norm}, data_init": {"norm": norm, "data_init": 64} for norm in NORMS},
    "plain heads": {"norm": "weight", "norm_heads": False},
    "iwae": {"objective": "iwae", "train_samples": 3, "schedule": "iwae"},
    "samples": {"train_samples": 3, "norm": "layer", "activation": "relu"},
    "adamax": {"optimizer": "adamax", "max_grad_norm": 1.0, "norm": "weight"},
    "free_bits": {"free_bits": 0.1, "beta": 0.5, "warm_up_epochs": 0.1, "schedule": "constant"},
    "grey": {"likelihood": "logistic", "norm": "weight"},
}
STEPS = 10


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def configs(n_members=3, **changes):
    config = replace(SMALL, **changes)
    return [
        replace(config, seed=seed, learning_rate=1e-3 * (1 + seed)) for seed in range(n_members)
    ]


def trained(images, n_steps, n_members=3, **changes):
    made = VAECohort(images, configs(n_members, **changes))
    for _ in range(n_steps):
        made.iterate()
    return made


def state(made):
    return [*made._kept()["optimizer"].values(), made.params, made.buffers]


def drawn_by(trainer):
    """Return what a trainer is about to draw for a step, as a cohort's draws of one member."""
    generator, left = trainer.generator.get_state(), [*trainer.batches.left]
    rows = trainer.batches.next_rows()
    config, model = trainer.config, trainer.model
    u = torch.zeros(len(rows), *model.image_shape)
    if model.likelihood.levels == 2:
        u.uniform_(generator=trainer.generator)
    noise = torch.randn(
        config.train_samples, len(rows), model.latent_dim, generator=trainer.generator
    )
    trainer.generator.set_state(generator)
    trainer.batches.left = left
    return rows, u, noise


@pytest.mark.parametrize("variant", VARIANTS)
def test_with_the_trainers_draws_a_member_has_its_parameters(variant, digits):
    members = configs(**VARIANTS[variant])
    trainers = [Trainer(build(config, digits), digits, config) for config in members]
    made = VAECohort(digits, members, chunk=2)
    for _ in range(STEPS):
        draws = Draws(*map(torch.stack, zip(*map(drawn_by, trainers), strict=True)))
        made.iterate(draws)
        for trainer in trainers:
            trainer._advance()
    bounds = made.validate()
    for k, trainer in enumerate(trainers):
        ours = made.vae(k).state_dict()
        for name, value in trainer.model.state_dict().items():
            torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-5)
        torch.testing.assert_close(made.sums[k], trainer.sums, rtol=1e-5, atol=1e-4)
        assert made.names == trainer.names
        for tag, bound in trainer.validation.bounds().items():
            torch.testing.assert_close(bounds[tag][k], bound, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("variant", [*NORMS, "adamax"])
def test_layers_are_measured_as_the_trainer_has_them(variant, digits):
    members = configs(2, **VARIANTS[variant])
    made = VAECohort(digits, members)
    trainers = [Trainer(build(config, digits), digits, config) for config in members]
    draws = Draws(*map(torch.stack, zip(*map(drawn_by, trainers), strict=True)))
    update = made.iterate(draws, measured=True)
    for k, trainer in enumerate(trainers):
        expected = {**weight_lengths(trainer.model), **trainer._advance(measured=True)}
        measured = made.measures(k, update)
        assert measured.keys() == expected.keys()
        for tag, value in expected.items():
            if not tag.startswith("norm/"):
                torch.testing.assert_close(measured[tag], value, rtol=1e-3, atol=1e-5)
        length = update.gradients[k].norm()
        torch.testing.assert_close(length, expected["vae/train_grad_norm"])
        assert length > 1


def test_a_step_that_is_measured_is_the_same_step(digits):
    made, measured = (VAECohort(digits, configs(norm="weight", max_grad_norm=1.0)) for _ in "ab")
    for _ in range(3):
        assert made.iterate() is None
        assert measured.iterate(measured=True) is not None
    assert_equal(state(measured), state(made))


@pytest.mark.parametrize("norm", NORMS)
def test_companions_change_no_bit_of_a_member(norm, digits):
    members = configs(10, norm=norm, data_init=32)
    alone, many = VAECohort(digits, members[5:6]), VAECohort(digits, members)
    for made in (alone, many):
        for _ in range(STEPS):
            made.iterate()
    here = slice(5, 6)
    assert_equal(state(alone), part(state(many), here))
    assert_equal(alone.sums, many.sums[here])
    assert_equal(alone.validate(), part(many.validate(), here))


def test_members_see_other_images_and_noise_and_all_images_in_a_pass(digits):
    made = VAECohort(digits, configs(3))
    whole = torch.cat([made.rows(step) for step in range(made.steps_per_epoch)], 1)
    again = torch.cat([made.rows(made.steps_per_epoch + step) for step in range(2)], 1)
    for k in range(3):
        assert len(whole[k].unique()) == whole.shape[1] == made.steps_per_epoch * 16
        assert not torch.equal(whole[k, :32], again[k])
    assert not torch.equal(whole[0], whole[1])
    assert torch.equal(made.rows(0), whole[:, :16])
    noise = torch.cat([made._noise(made.keys, step) for step in range(400)], 2)
    assert noise.mean((1, 2, 3)).abs().max() < 0.02
    assert (noise.std((1, 2, 3)) - 1).abs().max() < 0.02
    assert len(noise.flatten().unique()) > 0.9 * noise.numel()


def test_images_are_drawn_afresh_with_their_grey_levels_as_probabilities(digits):
    made = VAECohort(digits, configs(2))
    rows = torch.arange(16).expand(2, -1)
    drawn = torch.stack([made._inputs(made.keys, step, rows, None) for step in range(2000)])
    expected = digits.train[:16] / (digits.levels - 1)
    assert {*drawn.unique().tolist()} == {0.0, 1.0}
    for k in range(2):
        assert (drawn[:, k].mean(0) - expected).abs().max() < 0.07


@pytest.mark.parametrize("variant", ["batch", "spectral", "iwae", "adamax", "free_bits", "grey"])
def test_a_cohort_that_was_saved_goes_on_with_the_same_bits(variant, digits, tmp_path):
    whole = trained(digits, 20, **VARIANTS[variant])
    first = trained(digits, 13, **VARIANTS[variant])
    write_values(tmp_path / "state", "cohort", first.state())
    second = VAECohort(digits, configs(**VARIANTS[variant]))
    second.restore(read_values(tmp_path / "state", "cohort"))
    for _ in range(7):
        second.iterate()
    assert_equal(state(second), state(whole))
    assert_equal(second.sums, whole.sums)


def test_a_member_that_becomes_nan_changes_no_bit_of_the_others(digits):
    good, bad = (VAECohort(digits, configs()) for _ in range(2))
    bad.per_member["learning_rate"][1] = torch.nan
    for _ in range(3):
        good.iterate()
        bad.iterate()
    assert bad.finite().tolist() == [True, False, True]
    for k in (0, 2):
        assert torch.equal(good.params[k], bad.params[k])


@pytest.mark.parametrize("variant", VARIANTS)
def test_replayed_steps_are_those_that_python_makes(variant, digits):
    plain, replayed = (VAECohort(digits, configs(2, **VARIANTS[variant])) for _ in range(2))
    replayed._stepped = Emulated(replayed._step, torch.device("cpu"), lambda: state(replayed))
    for _ in range(6):
        plain.iterate()
        replayed.iterate()
    assert_equal(state(replayed), state(plain))
    assert_equal(replayed.sums, plain.sums)


NO_SPECTRAL = sorted({*VARIANTS} - {"spectral", "spectral, data_init"})


@pytest.mark.parametrize("variant", NO_SPECTRAL)  # autocast knows no meta device
def test_a_step_has_no_tensor_of_the_cpu(variant, digits):
    made = VAECohort(digits, configs(2, **VARIANTS[variant]), device="meta")
    with Operations() as operations:
        made.iterate()
    assert operations.devices == {"meta"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model": "mlp2", "hidden": None, "latent_dim": None}, "have model mlp alone, got 'mlp2'"),
        ({"objective": "dreg", "train_samples": 2}, "have objective elbo or iwae alone"),
        ({"objective": "iwae", "train_chunk": 1}, "have train_chunk None alone, got 1"),
        ({"ema_epochs": 1.0}, "have ema_epochs 0.0 alone"),
        ({"amp": True}, "have amp False alone"),
    ],
)
def test_what_a_population_does_not_have_is_one_line(change, told, digits):
    with pytest.raises(UsageError, match=told) as error:
        VAECohort(digits, [replace(SMALL, **change)])
    assert "\n" not in str(error.value)


def test_members_differ_in_what_is_each_ones_own(digits):
    with pytest.raises(UsageError, match=r"may differ in seed, learning_rate, beta; .* schedule"):
        VAECohort(digits, [SMALL, replace(SMALL, schedule="constant")])


def test_a_cohort_that_the_memory_does_not_hold_is_refused(digits, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: 2**24)
    with pytest.raises(UsageError, match=r"99 members needs about .* members fit"):
        VAECohort(digits, configs(99, hidden=(200, 200)))
