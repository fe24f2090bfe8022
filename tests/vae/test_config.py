import json
from dataclasses import asdict, replace

import pytest

from wnrl import NORMS, data
from wnrl.errors import UsageError
from wnrl.vae import PRESETS, VAEConfig
from wnrl.vae.config import BATCH_STATISTICS, SCHEDULES


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"model": "mpl"}, "model must be one of .*did you mean 'mlp'"),
        ({"dataset": "digit"}, "dataset must be one of .*did you mean 'digits'"),
        ({"norm": "weigth"}, "norm must be one of .*did you mean 'weight'"),
        ({"activation": "Tanh"}, "activation must be one of .*did you mean 'tanh'"),
        ({"schedule": "cosin"}, "schedule must be one of .*did you mean 'cosine'"),
        ({"latent_dim": 0}, "latent_dim must be above zero, got 0"),
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


def test_norms_with_batch_statistics_are_norms():
    assert set(BATCH_STATISTICS) <= set(NORMS)


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


def test_config_survives_json():
    config = VAEConfig(norm="weight", hidden=(7, 5))
    assert VAEConfig.from_json(json.loads(json.dumps(asdict(config)))) == config


def test_config_is_read_from_beside_the_device_of_the_run():
    values = asdict(VAEConfig(seed=3)) | {"device": "cuda:0", "threads": 2}
    assert VAEConfig.from_json(values) == VAEConfig(seed=3)


def test_json_of_something_else_is_refused_by_its_keys():
    with pytest.raises(UsageError, match="missing or unknown: algo"):
        VAEConfig.from_json(asdict(VAEConfig()) | {"algo": "ppo"})


@pytest.mark.parametrize(("model", "dataset"), PRESETS)
def test_preset_is_of_the_model_and_dataset_it_stands_for(model, dataset):
    assert dataset in data.DATASETS
    assert (PRESETS[model, dataset].model, PRESETS[model, dataset].dataset) == (model, dataset)
