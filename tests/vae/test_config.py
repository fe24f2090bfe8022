import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from wnrl.errors import UsageError
from wnrl.vae import VAEConfig, build
from wnrl.vae.config import IWAE_STAGES, SAMPLES_ONLY, SCHEDULES
from wnrl.vae.models import MODELS


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"model": "mpl"}, "model must be one of .*did you mean 'mlp'"),
        ({"dataset": "digit"}, "dataset must be one of .*did you mean 'digits'"),
        ({"norm": "weigth"}, "norm must be one of .*did you mean 'weight'"),
        ({"activation": "Tanh"}, "activation must be one of .*did you mean 'tanh'"),
        ({"schedule": "cosin"}, "schedule must be one of .*did you mean 'cosine'"),
        ({"likelihood": "bernouli"}, "likelihood must be one of .*did you mean 'bernoulli'"),
        ({"objective": "iwea"}, "objective must be one of elbo, iwae, dreg, got 'iwea'"),
        ({"optimizer": "sgd"}, "optimizer must be one of adam, adamax, got 'sgd'"),
        ({"free_bits_per": "image"}, "free_bits_per must be one of group, example"),
        ({"latent_dim": 0}, "latent_dim must be above zero, got 0"),
        ({"model": "conv", "hidden": (5,)}, "hidden is no setting of model 'conv', got"),
        ({"draw_steps": 5}, "draw_steps is no setting of model 'mlp', got 5"),
        ({"model": "draw", "draw_steps": 0}, "draw_steps must be above zero, got 0"),
        ({"epochs": 2.5}, "epochs must be a whole number or None, got 2.5"),
        ({"seed": 1.0}, "seed must be a whole number, got 1.0"),
        ({"batch_size": None}, "batch_size must be a whole number, got None"),
        ({"learning_rate": "0.1"}, "learning_rate must be a number, got '0.1'"),
        ({"beta": None}, "beta must be a number, got None"),
        ({"dataset": 3}, "dataset must be a string, got 3"),
        ({"amp": "no"}, "amp must be True or False, got 'no'"),
        ({"hidden": (8.5,)}, r"hidden\[0\] must be a whole number, got 8.5"),
        ({"hidden": 8}, "hidden must be a tuple or None, got 8"),
        ({"train_samples": 0}, "train_samples must be above zero, got 0"),
        ({"max_grad_norm": 0}, "max_grad_norm must be above zero, got 0"),
        ({"ema_epochs": -1.0}, "ema_epochs must be zero or above, got -1.0"),
        ({"beta": float("nan")}, "beta must be zero or above, got nan"),
        ({"data_init": 1}, "data_init must be 0 or at least 2 images, got 1"),
        ({"objective": "iwae", "free_bits": 0.1}, "free_bits is for objective 'elbo' alone"),
        ({"train_chunk": 2}, "train_chunk is for objective 'iwae' alone, got 'elbo'"),
        ({"objective": "iwae", "train_chunk": 2, "norm": "batch"}, "train_chunk is not for norm"),
        ({"objective": "iwae", "train_chunk": 2, "norm": "spectral"}, "train_chunk is not for nor"),
        ({"objective": "dreg", "norm": "batch"}, "'dreg' is not for norm 'batch'"),
        ({"objective": "dreg", "model": "conv_iaf"}, "'dreg' needs a posterior with a density"),
        ({"epochs": -1}, "epochs must be above zero, got -1"),
        ({"epochs": None, "n_steps": 0}, "n_steps must be above zero, got 0"),
        ({"batch_size": 0}, "batch_size must be above zero, got 0"),
        ({"learning_rate": -1e-3}, "learning_rate must be above zero, got -0.001"),
        ({"learning_rate": float("nan")}, "learning_rate must be above zero, got nan"),
        ({"n_samples": 0}, "n_samples must be above zero, got 0"),
        ({"n_logs": 0}, "n_logs must be above zero, got 0"),
        ({"hidden": ()}, r"hidden must be widths above zero, got \(\)"),
        ({"hidden": (8, 0)}, r"hidden must be widths above zero, got \(8, 0\)"),
        ({"seed": -1}, "seed must be from 0 to .*, got -1"),
        ({"epochs": None}, "exactly one of epochs and n_steps, got epochs=None and n_steps=None"),
        (
            {"epochs": 3, "n_steps": 9},
            "exactly one of epochs and n_steps, got epochs=3 and n_steps=",
        ),
        (
            {"batch_size": 1, "norm": "batch"},
            "batch_size must be at least 2 for norm 'batch', got 1",
        ),
    ],
)
def test_wrong_value_is_refused_at_construction_by_its_name(wrong, message):
    with pytest.raises(UsageError, match=message):
        VAEConfig(**wrong)


def test_batch_of_one_is_fine_without_batch_statistics():
    assert VAEConfig(batch_size=1, norm="layer").batch_size == 1


def test_epochs_count_whole_batches_and_steps_count_themselves():
    config = VAEConfig(epochs=3, batch_size=64)
    assert config.total_steps(1297) == 3 * 20
    assert replace(config, epochs=None, n_steps=7).total_steps(1297) == 7


def test_batch_larger_than_the_training_set_is_refused():
    with pytest.raises(UsageError, match="at most the 100 training images, got 101"):
        VAEConfig(batch_size=101).total_steps(100)


def test_cosine_holds_for_half_the_training_and_ends_at_a_twentieth():
    factor = SCHEDULES["cosine"]
    assert [factor(0.0), factor(0.5)] == [1, 1]
    assert factor(0.75) == pytest.approx(0.525)
    assert factor(1.0) == pytest.approx(0.05)


def test_constant_schedule_is_constant():
    assert [SCHEDULES["constant"](done) for done in (0.0, 0.7, 1.0)] == [1, 1, 1]


def test_numbers_of_numpy_are_numbers_of_a_run_and_of_its_json():
    config = VAEConfig(epochs=np.int64(3), learning_rate=np.float32(0.5))
    assert json.loads(json.dumps(asdict(config)))["epochs"] == 3
    assert type(config.epochs) is int


def test_config_survives_json():
    config = VAEConfig(norm="weight", hidden=(7, 5))
    assert VAEConfig.from_json(json.loads(json.dumps(asdict(config)))) == config


def test_config_is_read_from_beside_the_device_of_the_run():
    values = asdict(VAEConfig(seed=3)) | {"device": "cuda:0", "threads": 2, "compile": True}
    assert VAEConfig.from_json(values) == VAEConfig(seed=3)


def test_a_setting_that_json_does_not_have_is_its_default():
    config = VAEConfig("conv", "mnist", epochs=3)
    values = json.loads(json.dumps(config.to_json()))
    for older in values.keys() - {"model", "dataset", "norm", "epochs"}:
        assert VAEConfig.from_json({k: v for k, v in values.items() if k != older}) == config


def test_json_may_have_a_former_setting_with_what_every_run_has_now():
    values = VAEConfig(seed=3).to_json()
    assert VAEConfig.from_json(values | {"select": "last"}) == VAEConfig(seed=3)
    with pytest.raises(UsageError, match="select of a VAE run is 'last' alone by now, got 'best'"):
        VAEConfig.from_json(values | {"select": "best"})


@pytest.mark.parametrize("name", ["model", "dataset", "norm"])
def test_json_without_model_data_set_or_norm_is_refused(name):
    values = {key: value for key, value in asdict(VAEConfig()).items() if key != name}
    with pytest.raises(UsageError, match=f"missing or unknown: {name}"):
        VAEConfig.from_json(values)


def test_json_of_something_else_is_refused_by_its_keys():
    with pytest.raises(UsageError, match="missing or unknown: algo"):
        VAEConfig.from_json(asdict(VAEConfig()) | {"algo": "ppo"})


def test_iwae_schedule_has_eight_stages_of_three_to_the_i_epochs_down_to_a_tenth():
    factor, total = SCHEDULES["iwae"], 3280
    rates = [factor(epoch / total) for epoch in range(1, total + 1)]
    lengths = [rates.count(10 ** (-i / 7)) for i in range(IWAE_STAGES)]
    assert lengths == [3**i for i in range(IWAE_STAGES)]
    assert rates[0] == 1
    assert rates[-1] == pytest.approx(0.1)
    assert rates == sorted(rates, reverse=True)


def test_sizes_that_are_not_given_become_the_models_own():
    assert VAEConfig().hidden == (200, 200)
    assert (VAEConfig().latent_dim, VAEConfig().activation) == (50, "tanh")
    draw = VAEConfig("draw")
    assert (draw.latent_dim, draw.draw_steps) == (100, 10)
    assert (draw.hidden, draw.activation) == (None, None)


@pytest.mark.parametrize(
    ("dataset", "likelihood"),
    [
        ("digits", "bernoulli"),
        ("mnist-static", "bernoulli"),
        ("cifar10", "logistic_mixture"),
        ("frames:CartPole-v1", "logistic"),
    ],
)
def test_likelihood_that_is_not_given_is_the_usual_one_of_the_data_set(dataset, likelihood):
    assert VAEConfig(dataset=dataset).likelihood == likelihood


def test_models_that_dreg_refuses_are_those_without_a_posterior_density():
    for name in MODELS:
        dataset = "frames:CartPole-v1" if name == "frames" else "digits"
        model = build(VAEConfig(name, dataset, norm="none"))
        if name in SAMPLES_ONLY:
            with pytest.raises(UsageError, match="density"):
                model.posterior(torch.zeros(1, *model.image_shape))
        else:
            model.posterior(torch.zeros(1, *model.image_shape))
