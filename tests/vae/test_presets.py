from dataclasses import replace

import numpy as np
import pytest

from wnrl import data
from wnrl.errors import UsageError
from wnrl.vae import PRESETS, Trainer, VAEConfig, build, preset
from wnrl.vae.models import MODELS
from wnrl.vae.presets import GENERAL, USUAL

SHIPPED = [(model, name) for model in MODELS for name in (*data.DATASETS, "frames:Pendulum-v1")]


@pytest.mark.parametrize(("model", "dataset"), SHIPPED)
def test_preset_is_of_the_model_and_dataset_it_stands_for(model, dataset):
    for variant in PRESETS.get((model, dataset), GENERAL[model]):
        config = preset(model, dataset, variant)
        assert (config.model, config.dataset) == (model, dataset)
        assert config.likelihood == VAEConfig(model, dataset).likelihood


def test_every_model_has_a_usual_preset_for_any_data_set(tmp_path):
    assert GENERAL.keys() == set(MODELS)
    assert all(USUAL in variants for variants in (*PRESETS.values(), *GENERAL.values()))
    np.savez(tmp_path / "mine.npz", x=np.zeros((20, 3, 8, 12), np.uint8))
    config = preset("conv", f"npz:{tmp_path / 'mine.npz'}")
    assert (config.images.shape, config.likelihood) == ((3, 8, 12), "logistic_mixture")
    assert config.optimizer == preset("conv", "mnist").optimizer


def test_the_mlp_on_mnist_alone_is_the_schedule_of_twenty_epochs():
    config = preset("mlp", "mnist")
    assert (config.hidden, config.latent_dim, config.activation) == ((200, 200), 50, "tanh")
    assert (config.epochs, config.batch_size, config.learning_rate) == (20, 100, 1e-3)
    assert (config.schedule, config.optimizer, config.n_samples) == ("cosine", "adam", 100)


def test_the_long_mlps_have_the_schedule_of_their_paper():
    for model in ("mlp", "mlp2"):
        config = preset(model, "mnist", "long")
        assert (config.epochs, config.batch_size, config.schedule) == (3280, 20, "iwae")
        assert config.n_samples == 5000


def test_unknown_variants_are_refused_with_those_that_there_are():
    with pytest.raises(UsageError, match="'mnist' must be one of default, 150, long, got 'lnog'"):
        preset("mlp", "mnist", "lnog")
    with pytest.raises(UsageError) as refused:
        preset("mlp", "digits", "long")
    told = "preset of model 'mlp' on dataset 'digits' must be one of default, got 'long'"
    assert str(refused.value) == told


@pytest.mark.parametrize("model", [name for name in MODELS if name != "frames"])
def test_long_presets_train(model):
    """What is for a GPU, with images of 8 × 8 and two steps, but for its own settings."""
    long = preset(model, "mnist", "long")
    digits = data.load("digits")
    few = {"draw_steps": 2} if long.draw_steps else {}
    config = replace(long, dataset="digits", epochs=None, n_steps=2, n_logs=1, **few)
    (log,) = Trainer(build(config, digits), digits, config).run()
    assert log.step == 2
