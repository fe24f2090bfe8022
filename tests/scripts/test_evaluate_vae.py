import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scripts import _cli, evaluate_vae, sample_vae
from tests.vae.written import write_run
from wnrl import vae
from wnrl.errors import NonFiniteError, UsageError
from wnrl.runs import write_json
from wnrl.vae.evaluation import evaluate
from wnrl.vae.run import Machine, train_in

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "evaluate_vae.py"
TINY = vae.VAEConfig(
    epochs=None, n_steps=20, hidden=(12,), latent_dim=2, n_samples=5, n_logs=2, ema_epochs=0.5
)
CPU = Machine("cpu")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs by name, with their results."""
    root, threads = tmp_path_factory.mktemp("vae"), torch.get_num_threads()
    changes = {
        "weight": {},
        "none": {"norm": "none"},
        "logistic": {"likelihood": "logistic"},
        "normal": {"likelihood": "normal"},
        "draw": {"model": "draw", "hidden": None, "activation": None, "draw_steps": 3},
    }
    by_name = {
        name: (root / name, train_in(root / name, replace(TINY, **change), CPU))
        for name, change in changes.items()
    }
    torch.set_num_threads(threads)
    for name, config in (
        ("mnist", vae.VAEConfig(dataset="mnist", hidden=(3,), latent_dim=2)),
        ("raw", vae.VAEConfig(hidden=(3,), latent_dim=2)),
    ):
        write_run(root / name, config, vae.build(config).state_dict())
        by_name[name] = (root / name, {})
    return by_name


def evaluated(folder, **changes):
    return evaluate(folder, device="cpu", **changes)


def test_evaluating_a_run_gives_the_numbers_that_it_reported(runs):
    folder, result = runs["weight"]
    found = evaluated(folder)
    for key in ("nll", "elbo", "nll_standard_error"):
        assert found[key] == pytest.approx(result[key], abs=1e-6)
    assert found["protocol"] == result["protocol"]
    assert found["protocol"]["weights"] == "averaged"


def test_a_whole_split_is_measured_and_the_folder_is_left_as_it_is(runs):
    folder, _ = runs["weight"]
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert evaluated(folder, split="valid", n_samples=3)["protocol"]["N"] == 200
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_raw_and_averaged_weights_are_different_models(runs):
    folder, _ = runs["weight"]
    raw, averaged = (evaluated(folder, weights=kind) for kind in ("raw", "averaged"))
    assert raw["nll"] != averaged["nll"]
    assert raw["protocol"]["weights"] == "raw"


def test_difference_is_image_by_image_and_changes_its_sign_with_the_order(runs):
    one, two = runs["weight"][0], runs["none"][0]
    there = evaluated(one, against=two)
    back = evaluated(two, against=one)
    assert there["difference"]["mean"] == pytest.approx(there["nll"] - there["other"]["nll"])
    assert there["difference"]["mean"] == pytest.approx(-back["difference"]["mean"])
    assert 0 < there["difference"]["standard_error"] < there["nll_standard_error"]
    assert there["other"]["protocol"] == there["protocol"]
    low, high = there["difference"]["interval95"]
    assert low < there["difference"]["mean"] < high


@pytest.mark.parametrize(
    ("one", "two", "flags", "message"),
    [
        ("weight", "logistic", {}, "the same images: 'binary', got 'grey levels'"),
        ("logistic", "normal", {}, "the same likelihood: 'probability', got 'density'"),
        ("weight", "mnist", {}, "the same dataset: 'digits', got 'mnist'"),
        ("weight", "raw", {"weights": "averaged"}, "weights must be one of raw, got 'averaged'"),
    ],
)
def test_what_does_not_compare_is_refused_before_anything_is_measured(
    one, two, flags, message, runs, monkeypatch
):
    monkeypatch.setattr("wnrl.vae.evaluation.nll", None)
    with pytest.raises(UsageError, match=message):
        evaluated(runs[one][0], against=runs[two][0], **flags)


def test_grey_levels_are_reported_in_bits_per_dimension(runs):
    found = evaluated(runs["logistic"][0])
    assert found["bits_per_dim"] == pytest.approx(found["nll"] / (64 * np.log(2)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threads": 100_000}, "threads must be a whole number up to 1024, above zero, got 100000"),
        ({"run_dir": Path("nowhere")}, "run_folder nowhere holds no trained VAE"),
        ({"against": Path("nowhere")}, "run_folder nowhere holds no trained VAE"),
    ],
)
def test_wrong_flags_are_refused(changes, message, runs):
    with pytest.raises(UsageError, match=message):
        evaluate_vae.main(
            evaluate_vae.Args(**{"run_dir": runs["weight"][0], "device": "cpu", **changes})
        )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"algo": "ppo"}, "holds a run of another program: its config.json has no dataset"),
        (asdict(vae.VAEConfig()), "has no model.pt: it is not finished"),
    ],
)
@pytest.mark.parametrize("program", [evaluate_vae, sample_vae])
def test_a_folder_without_a_trained_vae_is_told_by_what_it_holds(
    program, config, message, tmp_path
):
    write_json(tmp_path / "config.json", config)
    with pytest.raises(UsageError, match=message):
        program.main(program.Args(run_dir=tmp_path))


def test_program_prints_one_line_of_json(runs):
    folder, result = runs["weight"]
    out = subprocess.run(
        [sys.executable, SCRIPT, "--run-dir", folder],
        capture_output=True, text=True, check=True, cwd=folder,
    )  # fmt: skip
    assert out.stderr == f"measuring {folder}: K = 5, 300 images\n"
    (line,) = out.stdout.splitlines()
    assert json.loads(line)["nll"] == pytest.approx(result["nll"], abs=1e-6)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("weight", "samples"),
        ("weight", "reconstructions"),
        ("weight", "traversals"),
        ("draw", "canvas"),
    ],
)
def test_pictures_are_written_into_the_run_folder(name, kind, runs, capsys):
    folder, _ = runs[name]
    sample_vae.main(sample_vae.Args(run_dir=folder, kind=kind))
    assert capsys.readouterr().out == f"{folder / kind}.png\n"
    with Image.open(folder / f"{kind}.png") as picture:
        assert picture.size[0] % 54 == picture.size[1] % 54 == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "sample"}, "did you mean 'samples'"),
        ({"out": Path("a.jpg")}, "out must end with .png, got 'a.jpg'"),
        ({"kind": "canvas"}, "canvas is for DRAW, got a MLPVAE"),
        ({"out": Path("/nowhere/a.png")}, "out /nowhere/a.png cannot be written"),
    ],
)
def test_a_picture_that_cannot_be_drawn_is_refused(changes, message, runs):
    with pytest.raises(UsageError, match=message):
        sample_vae.main(sample_vae.Args(**{"run_dir": runs["weight"][0], **changes}))


def test_a_likelihood_that_is_not_finite_is_told_and_exits_with_1(runs, monkeypatch, capsys):
    def infinite(*_):
        raise NonFiniteError("log p(x) of 1 of 300 test images is not finite")

    monkeypatch.setattr("wnrl.vae.evaluation.nll", infinite)
    flags = ["--run-dir", str(runs["weight"][0]), "--device", "cpu"]
    with pytest.raises(SystemExit, match="1"):
        _cli.run(evaluate_vae.main, evaluate_vae.Args, argv=flags)
    assert capsys.readouterr().out == "failed: log p(x) of 1 of 300 test images is not finite\n"
