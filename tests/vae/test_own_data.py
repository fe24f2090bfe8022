"""Models of data sets of one's own, and what is left of them where the data set is not known."""

import copy
import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts import _cli, evaluate_vae, sample_vae, train_vae
from wnrl import vae
from wnrl.data import DATASETS, Dataset, load
from wnrl.errors import UsageError


def run(program, *flags):
    default, argv = getattr(program, "preset_of", None), [str(flag) for flag in flags]
    with pytest.raises(SystemExit) as left:
        _cli.run(program.main, program.Args, default=default, argv=argv)
    return left.value.code


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of forty small pictures in colour."""
    folder = tmp_path_factory.mktemp("data") / "pics"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for k in range(40):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / f"{k}.png")
    return folder


@pytest.fixture(scope="module")
def trained(pictures):
    """The run folder of a model that the program has trained on them."""
    folder = pictures.parent / "run"
    flags = ["--model", "mlp", "--dataset", f"folder:{pictures}", "--run-dir", folder]
    sizes = ["--n-steps", 2, "--hidden", 5, "--latent-dim", 2, "--batch-size", 8, "--n-samples", 2]
    assert run(train_vae, *flags, *sizes, "--n-logs", 1) == 0
    return folder


def test_names_that_are_no_text_are_names_of_pictures_and_folders(pictures, monkeypatch, capsys):
    no_text = b"caf\xe9".decode("utf-8", "surrogateescape")
    monkeypatch.chdir(pictures.parent)
    shutil.copytree(pictures, no_text)
    for path in sorted(Path(no_text).iterdir()):
        path.rename(path.with_name(no_text + path.name))
    flags = ["--dataset", f"folder:{no_text}", "--run-dir", "a run", "--n-steps", 1, "--hidden", 5]
    assert run(train_vae, *flags, "--latent-dim", 2, "--batch-size", 8, "--n-samples", 2) == 0
    assert run(evaluate_vae, "--run-dir", "a run", "--n-samples", 1) is None


@pytest.mark.parametrize("form", ["folder", "npz"])
def test_a_config_of_data_of_ones_own_is_copied_and_pickled(form, pictures):
    path = pictures if form == "folder" else pictures.parent / "x.npz"
    np.savez(pictures.parent / "x.npz", np.zeros((20, 4, 5), np.uint8))
    config = vae.preset("mlp", f"{form}:{path}")
    for copied in (pickle.loads(pickle.dumps(config)), copy.deepcopy(config)):
        assert copied == config
        assert copied.images.read(None).shape == config.images.shape


def test_a_test_split_of_one_image_is_refused_before_anything_is_trained(tmp_path, capsys):
    np.savez(tmp_path / "x.npz", train=np.eye(20, dtype=np.uint8).reshape(-1, 4, 5),
             test=np.zeros((1, 4, 5), np.uint8), levels=2)  # fmt: skip
    flags = ["--dataset", f"npz:{tmp_path / 'x.npz'}", "--run-dir", tmp_path / "run"]
    assert run(train_vae, *flags, "--n-steps", 1, "--batch-size", 8) == 2
    assert "must have two images or more for testing" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "changed",
    [{"train": 1}, {"valid": 1}, {"test": 1}, {"n_train": 28}, {"n_train": 33}],
    ids=["train", "valid", "test", "fewer", "another split"],
)
def test_a_run_does_not_go_on_with_images_that_have_changed(changed, tmp_path, capsys):
    def images(train=0, valid=0, test=0, n_train=32):
        def drawn(seed, n):
            return np.random.default_rng(seed).integers(0, 256, (n, 4, 5), np.uint8)

        both = np.concatenate([drawn(train, 32), drawn(valid, 4)])
        parts = both[:n_train], both[max(n_train, 32) :], drawn(test, 4)
        np.savez(tmp_path / "x.npz", train=parts[0], valid=parts[1], test=parts[2])

    folder, name = tmp_path / "run", f"npz:{tmp_path / 'x.npz'}"
    flags = ["--dataset", name, "--run-dir", folder, "--batch-size", 8, "--n-samples", 2]
    images()
    assert run(train_vae, *flags, "--hidden", 5, "--latent-dim", 2, "--n-steps", 2) == 0
    images(**changed)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    capsys.readouterr()
    longer = ("--run-dir", folder, "--resume", "--n-steps", 4)
    assert run(train_vae, *longer) == 2
    told = capsys.readouterr().err
    assert f"does not fit: dataset {name!r} has changed since the run began\n" in told
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    images()
    assert run(train_vae, *longer) == 0


def test_pictures_in_a_folder_are_trained_on_and_measured(trained, pictures, capsys):
    config = json.loads((trained / "config.json").read_text())
    assert (config["image_shape"], config["levels"]) == ([3, 8, 8], 256)
    assert config["likelihood"] == "logistic_mixture"
    assert run(evaluate_vae, "--run-dir", trained, "--split", "valid") is None
    measured = json.loads(capsys.readouterr().out)
    assert measured["protocol"]["N"] == len(load(f"folder:{pictures}").valid)


def test_a_model_is_loaded_and_drawn_from_where_its_pictures_are_gone(trained, pictures):
    hidden = pictures.rename(pictures.parent / "elsewhere")
    try:
        assert vae.load(trained).image_shape == (3, 8, 8)
        assert run(sample_vae, "--run-dir", trained) is None
        with pytest.raises(UsageError, match=r"dataset 'folder:.*' is not there"):
            evaluate_vae.main(evaluate_vae.Args(run_dir=trained))
    finally:
        hidden.rename(pictures)


def test_a_model_of_an_own_row_says_which_data_set_is_missing_where_it_is_not_known(
    pictures, tmp_path, monkeypatch
):
    images = replace(load(f"folder:{pictures}"), name="mine")
    mine = Dataset(images.shape, images.levels, lambda data_dir: images)
    monkeypatch.setitem(DATASETS, "mine", mine)
    flags = ["--dataset", "mine", "--run-dir", tmp_path / "run", "--n-logs", 1]
    sizes = ["--n-steps", 2, "--hidden", 5, "--latent-dim", 2, "--batch-size", 8, "--n-samples", 2]
    assert run(train_vae, *flags, *sizes) == 0
    monkeypatch.delitem(DATASETS, "mine")
    assert vae.load(tmp_path / "run").image_shape == (3, 8, 8)
    with pytest.raises(UsageError, match=r"dataset must be one of .* got 'mine'"):
        evaluate_vae.main(evaluate_vae.Args(run_dir=tmp_path / "run"))


@pytest.mark.parametrize("model", [vae.MLPVAE, vae.ConvVAE, vae.TwoLayerVAE])
def test_an_image_shape_with_its_channels_last_is_refused(model):
    with pytest.raises(UsageError, match=r"image_shape must have channels in front .*28, 28, 3"):
        model((28, 28, 3))
