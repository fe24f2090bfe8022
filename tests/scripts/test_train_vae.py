import re
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from scripts import _cli
from scripts.train_vae import Args, main, preset_of
from tests.programs import vae_args
from tests.vae.written import train
from wnrl import tags, vae
from wnrl.errors import UsageError
from wnrl.runs import read_config, read_json, read_result, write_json
from wnrl.vae import VAEConfig, preset

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "train_vae.py"
TINY = {"n_steps": 20, "hidden": (12,), "latent_dim": 2, "n_samples": 5, "n_logs": 4}


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vae") / "run"
    result = train(vae_args(norm="weight", run_dir=folder, device="cpu", **TINY))
    return folder, result


def events(folder):
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def test_result_holds_the_likelihood_with_its_protocol_and_the_costs(run):
    folder, result = run
    assert result == read_result(folder)
    assert result["status"] == "finished"
    assert 0 < result["nll"] < -result["elbo"]
    assert result["nll_standard_error"] > 0
    assert result["protocol"]["binarisation"] == "one draw for all models, seed 0"
    assert (result["protocol"]["split"], result["protocol"]["K"]) == ("test", 5)
    assert result["protocol"]["N"] == 300
    assert result["steps"] == 20
    assert result["steps_per_second"] > 0
    assert result["images_per_second"] == pytest.approx(64 * result["steps_per_second"])
    assert result["wall_time"] > 20 / result["steps_per_second"]
    assert result["plain_parts"] == []


def test_curve_holds_the_bounds_at_the_logged_steps(run):
    _, result = run
    assert set(result["curve"]) == {"steps", tags.VAE_TRAIN_ELBO, tags.VAE_VALID_ELBO}
    assert result["curve"]["steps"] == [5, 10, 15, 20]
    assert all(len(values) == 4 for values in result["curve"].values())


def test_per_image_nll_averages_to_the_reported_one(run):
    folder, result = run
    per_image = np.load(folder / "per_image_nll.npy")
    assert per_image.shape == (300,)
    assert per_image.mean() == pytest.approx(result["nll"], abs=1e-12)


def test_config_holds_every_resolved_value(run):
    folder, _ = run
    values = read_config(folder)
    assert set(values) == {field.name for field in fields(VAEConfig)} | {
        "device",
        "threads",
        "compile",
        "image_shape",
        "levels",
    }
    assert (values["norm"], values["n_steps"], values["epochs"]) == ("weight", 20, None)
    assert (values["device"], values["threads"]) == ("cpu", 1)


def test_tensorboard_gets_scalars_images_and_hparams_in_one_event_file(run):
    folder, result = run
    logged = events(folder).Tags()
    bounds = {
        f"vae/{split}_{part}"
        for split in ("train", "valid")
        for part in ("elbo", "reconstruction", "kl")
    }
    lengths = {f"{tags.NORM_G}/encoder.0.weight", f"{tags.NORM_V}/encoder.0.weight"}
    assert bounds | lengths | {tags.VAE_NLL, tags.VAE_TEST_ELBO} <= set(logged["scalars"])
    pictures = {tags.VAE_RECONSTRUCTIONS, tags.VAE_SAMPLES, tags.VAE_TRAVERSALS}
    assert pictures == set(logged["images"])
    assert f"{tags.GRADIENT_NORM}/encoder.0" in logged["scalars"]
    assert tags.VAE_TRAIN_GRADIENT_NORM in logged["scalars"]
    assert len(list(folder.glob("events.out.tfevents.*"))) == 1
    hparams = events(folder).summary_metadata["_hparams_/session_start_info"]
    started = HParamsPluginData.FromString(hparams.plugin_data.content).session_start_info.hparams
    identity = {"task": "digits", "algo": "mlp", "norm": "weight"}
    assert {key: started[key].string_value for key in identity} == identity
    assert started["seed"].number_value == 0
    assert events(folder).Scalars(tags.VAE_NLL)[0].value == pytest.approx(result["nll"])
    speed = events(folder).Scalars(tags.STEPS_PER_SECOND)[0].value
    assert speed == pytest.approx(result["steps_per_second"])


def test_samples_are_saved_large_enough_to_read(run):
    picture = Image.open(run[0] / "samples.png")
    assert picture.size == (8 * 54 + 6, 4 * 54 + 6)
    assert len(set(picture.tobytes())) > 10


def test_calling_a_finished_run_again_shows_its_result_and_changes_nothing(run, capsys):
    folder, result = run
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir() if path.name != ".lock"}
    assert main(vae_args(norm="weight", run_dir=folder, device="cpu", **TINY)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(folder)
    assert lines[-1].startswith(f"NLL {result['nll']:.2f}")
    assert before == {p: p.stat().st_mtime_ns for p in folder.iterdir() if p.name != ".lock"}


@pytest.mark.parametrize(
    "other", [{"nll": "low"}, {"protocol": None}, {"protocol": {}}, {"bits_per_dim": "few"}]
)
def test_a_finished_run_whose_result_says_something_else_is_one_line(other, run, tmp_path):
    folder = shutil.copytree(run[0], tmp_path / "run")
    write_json(folder / "result.json", read_json(folder / "result.json") | other)
    with pytest.raises(
        UsageError, match=r"result\.json is damaged or of another version: \w+Error"
    ):
        main(vae_args(norm="weight", run_dir=folder, device="cpu", **TINY))


def test_progress_rises_to_one(tmp_path, monkeypatch):
    monkeypatch.setattr("wnrl.runs.session.PROGRESS_SECONDS", 0.0)
    done = []
    train(vae_args(run_dir=tmp_path / "run", **TINY), done.append)
    assert done == [*(step / 20 for step in range(1, 21)), 1.0]


def test_a_nan_ends_the_run_as_failed_with_its_reason(tmp_path, capsys):
    args = vae_args(norm="none", run_dir=tmp_path / "run", learning_rate=1e30, **TINY)
    assert main(args) == 1
    assert "failed: vae/" in capsys.readouterr().out
    result = read_result(tmp_path / "run")
    assert result["status"] == "failed"
    assert "after 5 gradient steps; first tensor not finite: output of " in result["reason"]
    assert "nll" not in result
    assert main(args) == 1
    hparams = events(tmp_path / "run").summary_metadata["_hparams_/session_start_info"]
    assert b"none" in hparams.plugin_data.content


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--norm", "weigth"], "norm must be one of .*did you mean 'weight'"),
        (["--model", "mpl"], "model must be one of .*did you mean 'mlp'"),
        (["--dataset", "digit"], "dataset must be one of .*did you mean 'digits'"),
        (["--n-steps", "0"], "n_steps must be above zero, got 0"),
        (["--epochs", "-1"], "epochs must be above zero, got -1"),
        (["--epochs", "2", "--n-steps", "2"], "exactly one of epochs and n_steps"),
        (["--batch-size", "5000"], "batch_size must be at most the 1297 training images"),
        (["--hidden", "0"], "hidden must be widths above zero"),
        (["--latent-dim", "0"], "latent_dim must be above zero, got 0"),
        (["--n-samples", "0"], "n_samples must be above zero, got 0"),
        (["--device", "cdua"], "device must be auto, cpu, cuda"),
        (["--threads", "0"], "threads must be a whole number up to 1024, above zero, got 0"),
        (
            ["--threads", "1000000"],
            "threads must be a whole number up to 1024, above zero, got 1000000",
        ),
        (
            ["--preset", "lnog"],
            "preset of model 'mlp' on dataset 'digits' must be one of default, got",
        ),
        (["--model", "conv", "--latent-dim", "1e15"], "model conv cannot be built: "),
        (["--hidden", "1e15"], "model mlp cannot be built: "),
        (["--model", "frames"], r"image_shape must be \(C, 64, 64\), got \(1, 8, 8\)"),
        (["--model", "conv", "--hidden", "5"], "hidden is no setting of model 'conv', got"),
        (["--objective", "iwae", "--beta", "2"], "beta is for objective 'elbo' alone, got 2.0"),
        (["--norm-kwargs", "momentun", "0.1"], "momentun"),
        (["--data-init", "5000"], "data_init must be at most the 1297 training images, got 5000"),
        (["--compile", "--objective", "dreg"], "compile is not for objective 'dreg'"),
        (["--checkpoint-minutes", "-1"], "checkpoint_minutes must be zero or above, got -1"),
    ],
)
def test_bad_flag_is_one_line_and_exit_2_and_writes_nothing(flags, message, tmp_path, capsys):
    folder = tmp_path / "run"
    with pytest.raises(SystemExit) as ended:
        _cli.run(main, Args, default=preset_of, argv=[*flags, "--run-dir", str(folder)])
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert re.search(message, lines[0])
    assert not folder.exists()


def called(capsys, *flags):
    """The exit code of the program, and what it printed on stderr."""
    with pytest.raises(SystemExit) as ended:
        _cli.run(main, Args, default=preset_of, argv=flags)
    return ended.value.code, capsys.readouterr().err


def test_what_is_not_given_with_resume_is_what_the_run_has(tmp_path, capsys):
    folder = tmp_path / "run"
    train(vae_args(norm="layer", run_dir=folder, seed=3, **TINY))
    capsys.readouterr()
    words = ("--run-dir", str(folder), "--resume")
    assert called(capsys, *words) == (0, f"run_dir {folder} has ended: nothing is trained\n")
    code, told = called(capsys, *words, "--n-steps", "30")
    assert (code, read_result(folder)["steps"]) == (0, 30)
    assert "resumed at step 20 of 30" in told
    config = read_config(folder)
    assert (config["norm"], config["hidden"], config["seed"]) == ("layer", [12], 3)
    assert called(capsys, *words, "--norm", "rms")[0] == 2


@pytest.mark.parametrize("named", [(), ("--model", "mlp", "--dataset", "digits")])
def test_what_is_not_given_with_resume_is_what_the_run_in_the_usual_folder_has(
    named, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    folder = vae_args(norm="layer", seed=30).folder
    train(vae_args(norm="layer", seed=30, threads=2, **TINY))
    capsys.readouterr()
    words = (*named, "--norm", "layer", "--seed", "3e1", "--resume")
    assert called(capsys, *words) == (0, f"run_dir {folder} has ended: nothing is trained\n")
    assert called(capsys, *words, "--n-steps", "30")[0] == 0
    assert (read_config(folder)["threads"], read_config(folder)["hidden"]) == (2, [12])
    code, told = called(capsys, *words, "--preset", "default")  # which is another run
    assert (code, "holds a run of another configuration" in told) == (2, True)


@pytest.mark.parametrize("where", [["--run-dir", "nothing"], []])
def test_a_resume_that_names_no_run_and_finds_none_is_refused(where, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = where[1] if where else "runs/single/digits/mlp/weight/seed0"
    assert called(capsys, *where, "--resume") == (
        2,
        f"error: run_dir {folder} holds no run to go on with; "
        "to begin one there, say which: --model or --dataset\n",
    )
    assert not list(tmp_path.iterdir())


def test_a_folder_of_another_program_is_not_resumed(tmp_path, capsys):
    write_json(tmp_path / "config.json", {"algo": "ppo"})
    code, told = called(capsys, "--run-dir", str(tmp_path), "--resume")
    assert code == 2
    assert told.count("\n") == 1
    assert "holds a run of another program" in told


def test_a_result_from_one_device_is_not_shown_for_another(run, monkeypatch):
    monkeypatch.setattr("wnrl.vae.run.resolve_device", torch.device)
    with pytest.raises(UsageError, match=r"device='cpu' .asked: 'cuda:0'."):
        train(vae_args(norm="weight", run_dir=run[0], device="cuda:0", **TINY))


def test_the_run_folder_is_printed_before_training_starts(tmp_path, capsys, monkeypatch):
    printed = []

    def look(*arguments):
        printed.append(capsys.readouterr().out)
        raise KeyboardInterrupt

    monkeypatch.setattr("wnrl.vae.run.VAEWork.train", look)
    with pytest.raises(KeyboardInterrupt):
        main(vae_args(run_dir=tmp_path, **TINY))
    assert printed == [f"{tmp_path}\n"]


def test_torch_runs_on_the_threads_that_were_asked_for(tmp_path):
    train(vae_args(run_dir=tmp_path, threads=2, **TINY))
    assert torch.get_num_threads() == 2


def test_every_setting_of_a_run_is_a_flag_with_the_presets_value_in_the_help(capsys):
    flags = ["--model", "conv", "--dataset", "mnist", "--preset", "long", "--help"]
    with pytest.raises(SystemExit):
        _cli.parse(Args, None, preset_of, flags)
    told = " ".join(re.sub("[│╭╰─╮╯]", " ", capsys.readouterr().out).split())
    for field in fields(VAEConfig):
        assert re.search(rf"--{field.name.replace('_', '-')}[, ]", told), field.name
    assert "levels" not in told
    for flag, value in {"epochs": "300", "optimizer": "adamax", "likelihood": "bernoulli"}.items():
        shown = re.search(rf"--{flag} .*?\(default: (.*?)\)", told)
        assert shown[1] == value


def test_flags_left_out_are_the_preset():
    assert vae_args(seed=3).config == VAEConfig(seed=3, latent_dim=16)
    assert vae_args().config.norm == VAEConfig().norm == "weight"
    args = _cli.parse(Args, None, preset_of, ["--model", "draw", "--n-steps", "7"])
    assert args.config == replace(preset("draw", "digits"), epochs=None, n_steps=7)


def test_heads_left_plain_by_a_flag_are_named_in_the_result(tmp_path):
    flags = ["--no-norm-heads", "--run-dir", str(tmp_path / "run")]
    flags += ["--n-steps", "2", "--hidden", "12", "--n-samples", "2", "--n-logs", "1"]
    args = _cli.parse(Args, None, preset_of, flags)
    assert not args.config.norm_heads
    assert train(args)["plain_parts"] == ["encoder.2", "decoder.2"]


def test_default_folder_is_named_by_dataset_model_norm_and_seed():
    assert vae_args(norm="layer", seed=3).folder == Path("runs/single/digits/mlp/layer/seed3")


def test_script_runs_from_another_folder(tmp_path):
    flags = [f"--{name.replace('_', '-')}" for name in TINY]
    values = [str(value[0] if isinstance(value, tuple) else value) for value in TINY.values()]
    words = [word for pair in zip(flags, values, strict=True) for word in pair]
    out = subprocess.run(
        [sys.executable, SCRIPT, "--norm", "batch", "--run-dir", "run", *words],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = out.stdout.splitlines()
    assert lines[0] == "run"
    assert lines[-1].startswith("NLL ")
    assert vae.load(tmp_path / "run").latent_dim == 2
    config = read_config(tmp_path / "run")
    assert VAEConfig.from_json(config) == VAEConfig(norm="batch", epochs=None, **TINY)
