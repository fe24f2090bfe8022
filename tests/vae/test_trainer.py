"""What ``Trainer`` does beyond a plain loop: objectives, averages, NaN, going on."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from wnrl import data, tags
from wnrl.compiling import compiled
from wnrl.errors import NonFiniteError, UsageError
from wnrl.runs.files import read_values, write_values
from wnrl.vae import Protocol, Trainer, VAEConfig, build, nll

CONFIG = VAEConfig(
    norm="none", hidden=(30,), latent_dim=4, epochs=None, n_steps=25, batch_size=50, n_logs=5
)
VARIANTS = {
    "plain": {},
    "weight_average": {"norm": "weight", "ema_epochs": 0.5, "data_init": 64},
    "batch_adamax": {"norm": "batch", "optimizer": "adamax", "max_grad_norm": 1.0},
    "iwae": {"objective": "iwae", "train_samples": 3, "train_chunk": 2, "schedule": "iwae"},
    "dreg": {"objective": "dreg", "train_samples": 3},
    "free_bits": {"free_bits": 0.1, "beta": 0.5, "warm_up_epochs": 0.5, "n_steps": 40},
    "amp": {"amp": True, "likelihood": "logistic"},
}


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def made(digits, **changes):
    config = replace(CONFIG, **changes)
    return Trainer(build(config, digits), digits, config)


@pytest.mark.parametrize("variant", VARIANTS)
def test_going_on_from_a_checkpoint_is_equal_bit_for_bit(variant, digits, tmp_path):
    whole = made(digits, **VARIANTS[variant])
    logs = [(log.step, log.scalars) for log in whole.run()]
    first = made(digits, **VARIANTS[variant])
    seen = [(log.step, log.scalars) for log in first.run(lambda: first.step == 13)]
    assert first.step == 13  # in the middle of an epoch and of two logs
    write_values(tmp_path / "state", "training", first.state())
    second = Trainer(build(replace(first.config, data_init=0)), digits, first.config)
    second.restore(read_values(tmp_path / "state", "training"))
    seen += [(log.step, log.scalars) for log in second.run()]
    assert seen == logs
    assert second.step == whole.step
    ours = second.weights()
    for kind, weights in whole.weights().items():
        assert all(torch.equal(value, ours[kind][name]) for name, value in weights.items())


def test_a_state_stays_what_it_was_while_training_goes_on(digits):
    trainer = made(digits, norm="weight", ema_epochs=0.5)
    list(trainer.run(lambda: trainer.step == 13))
    state = trainer.state()
    list(trainer.run())
    first = trainer.weights()
    trainer.restore(state)
    assert trainer.step == 13
    list(trainer.run())
    for kind, weights in trainer.weights().items():
        assert all(torch.equal(value, first[kind][name]) for name, value in weights.items())


def test_a_run_of_another_device_goes_on_with_noise_that_no_run_began_with(digits):
    trainer = made(digits, optimizer="adamax")
    begun = trainer.state()
    list(trainer.run(lambda: trainer.step == 13))
    state = trainer.state() | {"generator": torch.zeros(16, dtype=torch.uint8)}  # as a GPU's is
    state["optimizer"]["param_groups"][0]["capturable"] = True
    went_on = []
    for step in (0, 13):
        assert "other noise" in trainer.restore(state | {"step": step})
        went_on.append(torch.rand(4, generator=trainer.generator))
        trainer._advance()
    trainer.restore(begun)
    begins = torch.rand(4, generator=trainer.generator)
    assert len({tuple(draws.tolist()) for draws in (begins, *went_on)}) == 3


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_learns(variant, digits):
    before = None
    for log in made(digits, **{**VARIANTS[variant], "n_steps": 60}).run():
        bound = log.scalars[tags.VAE_VALID_ELBO]
        before = bound if before is None else before
    assert bound > before


def test_warm_up_beta_and_free_bits_stay_out_of_what_is_logged(digits):
    changed = made(digits, free_bits=0.5, beta=3.0, warm_up_epochs=5.0, n_steps=5, n_logs=5)
    plain = made(digits, n_steps=5, n_logs=5)
    first, second = next(changed.run()).scalars, next(plain.run()).scalars
    assert first[tags.VAE_TRAIN_ELBO] == second[tags.VAE_TRAIN_ELBO]


def test_importance_weighted_training_logs_and_is_chosen_by_its_own_bound(digits):
    trainer = made(digits, objective="iwae", train_samples=20)
    log = next(trainer.run())
    assert trainer.validation.criterion == tags.VAE_VALID_IWAE
    assert log.scalars[tags.VAE_VALID_IWAE] > log.scalars[tags.VAE_VALID_ELBO]
    assert tags.VAE_TRAIN_IWAE in log.scalars
    assert tags.VAE_TRAIN_ELBO not in log.scalars


def test_samples_in_chunks_train_as_well_as_all_at_once(digits):
    losses = []
    for chunk in (None, 2):
        trainer = made(digits, objective="iwae", train_samples=4, train_chunk=chunk, n_steps=5)
        losses.append([log.scalars[tags.VAE_TRAIN_IWAE] for log in trainer.run()])
    torch.testing.assert_close(*map(torch.tensor, losses), atol=0.3, rtol=0)


def test_gradients_are_scaled_down_to_the_norm_that_is_allowed(digits):
    trainer = made(digits, max_grad_norm=0.01, n_steps=1)
    log = next(trainer.run())
    total = torch.cat([p.grad.flatten() for p in trainer.model.parameters()]).norm()
    assert total.item() == pytest.approx(0.01, rel=1e-3)
    assert log.scalars[tags.VAE_TRAIN_GRADIENT_NORM] > 0.1  # before


def test_first_averages_are_plain_means_and_buffers_belong_to_them(digits):
    trainer = made(digits, norm="batch", ema_epochs=1000.0, n_steps=6)
    states = [copy.deepcopy(trainer.model.state_dict())]
    while trainer.step < 6:
        trainer._advance()
        states.append(copy.deepcopy(trainer.model.state_dict()))
    for name, value in trainer.average.tensors.items():
        if value.is_floating_point():
            mean = torch.stack([state[name] for state in states]).mean(0)
            torch.testing.assert_close(value, mean, atol=1e-5, rtol=1e-4)
        else:
            assert torch.equal(value, states[-1][name])


def test_averaged_weights_are_in_place_inside_only(digits):
    trainer = made(digits, ema_epochs=1.0)
    list(trainer.run())
    raw = copy.deepcopy(trainer.model.state_dict())
    with trainer.measured_weights():
        inside = copy.deepcopy(trainer.model.state_dict())
    weights = trainer.weights()
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, raw[name])
        assert torch.equal(inside[name], weights["averaged"][name])
        assert torch.equal(raw[name], weights["raw"][name])
    assert not torch.equal(weights["raw"]["encoder.0.weight"], inside["encoder.0.weight"])


def test_averaged_rows_of_projected_weights_are_on_the_sphere(digits):
    trainer = made(digits, norm="projected", ema_epochs=1.0, learning_rate=0.05)
    list(trainer.run())
    with trainer.measured_weights():
        lengths = trainer.model.encoder[0].weight.norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))
    assert lengths.sub(trainer.average.tensors["encoder.0.weight"].norm(dim=1)).min() > 1e-4


def test_averaged_spectral_norms_are_one(digits):
    trainer = made(digits, norm="spectral", ema_epochs=1.0, learning_rate=0.05, n_steps=60)
    list(trainer.run())
    trainer.model.eval()
    with trainer.measured_weights():
        for layer in (trainer.model.encoder[0], trainer.model.decoder[0]):
            assert layer.running_u_weight.norm().item() == pytest.approx(1)
            top = torch.linalg.matrix_norm(layer.compute_weight(), 2)
            assert top.item() == pytest.approx(1, abs=3e-3)


def test_of_weight_norm_directions_and_lengths_are_averaged(digits):
    trainer = made(digits, norm="weight", ema_epochs=1000.0, n_steps=8, learning_rate=0.05)
    lengths = [trainer.model.encoder[0].weight_g.detach().clone()]
    while trainer.step < 8:
        trainer._advance()
        lengths.append(trainer.model.encoder[0].weight_g.detach().clone())
    with trainer.measured_weights():
        rows = trainer.model.encoder[0].compute_weight().norm(dim=1, keepdim=True)
    torch.testing.assert_close(rows, torch.stack(lengths).mean(0))


@pytest.mark.parametrize("norm", ["weight", "projected", "spectral", "batch"])
def test_weights_that_are_saved_are_those_that_were_measured(norm, digits):
    trainer = made(digits, norm=norm, ema_epochs=1.0, learning_rate=0.05)
    list(trainer.run())
    protocol = Protocol("digits", n_samples=3, weights="averaged")
    with trainer.measured_weights():
        inside = nll(trainer.model, digits, protocol)
    loaded = build(trainer.config)
    loaded.load_state_dict(trainer.weights()["averaged"])
    assert torch.equal(nll(loaded, digits, protocol).per_image_nll, inside.per_image_nll)


def test_validation_never_looks_at_the_test_split(digits):
    images = replace(digits, test=torch.zeros_like(digits.test))
    first, second = (
        [log.scalars for log in Trainer(build(CONFIG, d), d, CONFIG).run()]
        for d in (digits, images)
    )
    assert first == second


def test_a_data_set_without_validation_is_refused_before_the_first_step(digits):
    with pytest.raises(UsageError, match="split 'valid' of dataset 'digits' has no images"):
        made(replace(digits, valid=digits.valid[:0]))


def test_grey_levels_have_bits_per_dimension_in_the_logs(digits):
    log = next(made(digits, likelihood="logistic").run())
    bits = -log.scalars[tags.VAE_VALID_ELBO] / (64 * math.log(2))
    assert log.scalars[tags.VAE_VALID_BITS] == pytest.approx(bits)
    assert tags.VAE_VALID_BITS not in next(made(digits).run()).scalars


def test_a_parameter_that_is_nan_from_the_start_is_named(digits):
    trainer = made(digits)
    with torch.no_grad():
        trainer.model.decoder[0].bias[3] = math.nan
    trainer.good = trainer.state()
    with pytest.raises(NonFiniteError, match=r"not finite: parameter decoder.0.bias"):
        list(trainer.run())


@pytest.mark.parametrize("norm", ["none", "weight", "batch"])
def test_a_nan_is_traced_to_the_step_and_the_activation_that_had_it_first(norm, digits):
    trainer = made(digits, norm=norm)
    advance = trainer._advance

    def poisoned(*args, **kwargs):
        if trainer.step == 7:
            with torch.no_grad():
                trainer.model.decoder[2].bias[0] = math.inf
        return advance(*args, **kwargs)

    trainer._advance = poisoned
    with pytest.raises(
        NonFiniteError, match=r"after 10 gradient steps; .* output of decoder.2, step 8; .* step 5"
    ):
        list(trainer.run())
    assert trainer.step == 5
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_a_gradient_that_explodes_behind_finite_activations_is_named(digits):
    trainer = made(digits)
    trainer.model.decoder[0].weight.register_hook(
        lambda g: g * (math.nan if trainer.step == 3 else 1)
    )
    with pytest.raises(NonFiniteError, match=r"gradient of decoder.0.weight, step 3"):
        list(trainer.run())


def test_a_loss_that_overflows_by_itself_is_named_by_its_tag(digits):
    config = replace(CONFIG, learning_rate=1e30)
    with pytest.raises(NonFiniteError, match=r"first tensor not finite: \S.*, step [12]; the last"):
        list(Trainer(build(config, digits), digits, config).run())


def test_a_nan_that_only_validation_has_is_named(digits):
    trainer = made(digits)
    bounds = trainer.validation.bounds

    def overflowing():
        with torch.no_grad():
            trainer.model.decoder[2].bias[0] = math.inf
        return bounds()

    trainer.validation.bounds = overflowing
    told = r"not finite: output of decoder.2, in validation after step 5; .* of step 0"
    with pytest.raises(NonFiniteError, match=told):
        list(trainer.run())


def test_a_stop_between_two_logs_also_looks_for_nan(digits):
    trainer = made(digits)
    trainer.model.decoder[0].weight.register_hook(
        lambda g: g * (math.nan if trainer.step == 3 else 1)
    )
    with pytest.raises(NonFiniteError):
        list(trainer.run(lambda: trainer.step == 4))


@pytest.mark.parametrize("changes", [{}, {"norm": "weight"}, {"model": "draw", "draw_steps": 2}])
def test_a_compiled_model_trains_like_the_plain_one(changes, digits, capsys):
    own = {"hidden": None, "activation": None} if "model" in changes else {}
    config = replace(CONFIG, **own, **changes, n_steps=4, n_logs=2)
    scalars = []
    for compiling in (False, True):
        model = build(config, digits)
        forward = compiled(model.forward, "a VAE", backend="eager") if compiling else None
        scalars.append([log.scalars for log in Trainer(model, digits, config, forward).run()])
    assert capsys.readouterr().err == ""
    for plain, other in zip(*scalars, strict=True):
        assert other == pytest.approx(plain, rel=1e-4, abs=1e-6)


def test_amp_keeps_what_is_measured_in_float32(digits):
    trainer = made(digits, amp=True)
    list(trainer.run())
    first, second = (nll(trainer.model, digits, Protocol("digits", n_samples=3)) for _ in "ab")
    assert first.nll == second.nll
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
