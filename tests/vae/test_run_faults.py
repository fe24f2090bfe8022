"""What signals, damage, full disks and NaN cost a run of a VAE."""

import os
import random
import resource
import shutil
import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from scripts.train_vae import main
from tests.programs import vae_args
from tests.vae.written import train
from wnrl import vae
from wnrl.errors import UsageError
from wnrl.runs import Stopped, is_finished, read_config, read_result
from wnrl.vae import run as vae_run

ARGS = vae_args(device="cpu", n_steps=40, hidden=(12,), latent_dim=2, n_samples=5, n_logs=4)
TIMED = {"steps_per_second", "images_per_second", "wall_time", "memory_mib"}


@pytest.fixture(autouse=True)
def _progress_at_every_step(monkeypatch):
    monkeypatch.setattr("wnrl.runs.session.PROGRESS_SECONDS", 0.0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, train(replace(ARGS, run_dir=folder))


@pytest.fixture
def args(tmp_path):
    return replace(ARGS, run_dir=tmp_path / "run")


def untimed(result):
    return {key: value for key, value in result.items() if key not in TIMED}


def at(share, act):
    """Return a progress callback that acts once, when so much is done."""
    left = [act]

    def progress(done):
        if done >= share and left:
            left.pop()()

    return progress


def flip(path, seed):
    """Flip one bit somewhere in a file."""
    data, choose = bytearray(path.read_bytes()), random.Random(seed)
    data[choose.randrange(len(data))] ^= 1 << choose.randrange(8)
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["model.pt", "config.json", "result.json"])
def test_one_flipped_bit_in_a_file_of_a_trained_model_is_refused_in_one_line(name, whole, tmp_path):
    for seed in range(20):
        folder = shutil.copytree(whole[0], tmp_path / str(seed))
        flip(folder / name, seed)
        with pytest.raises(UsageError, match=f"{name} is damaged") as refused:
            vae.load(folder)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["checkpoint.zip", "config.json"])
def test_one_flipped_bit_in_a_stopped_run_is_refused_and_nothing_is_changed(name, args):
    with pytest.raises(Stopped):
        train(args, at(0.5, lambda: os.kill(os.getpid(), signal.SIGHUP)))
    for seed in range(20):
        intact = (args.run_dir / name).read_bytes()
        flip(args.run_dir / name, seed)
        before = {path: path.read_bytes() for path in args.run_dir.iterdir()}
        with pytest.raises(UsageError, match=f"{name} is damaged") as refused:
            train(replace(args, resume=True))
        assert "\n" not in str(refused.value)
        assert {path: path.read_bytes() for path in args.run_dir.iterdir()} == before
        (args.run_dir / name).write_bytes(intact)


class Code:
    """Would run code where it is unpickled."""

    def __reduce__(self):
        return print, ("ran",)


@pytest.mark.parametrize("name", ["checkpoint.zip", "config.json"])
def test_no_code_is_run_from_a_file_of_ours(name, args, capsys):
    with pytest.raises(Stopped):
        train(args, at(0.5, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    torch.save(Code(), args.run_dir / name)
    with pytest.raises(UsageError, match=f"{name} is damaged"):
        train(replace(args, resume=True))
    assert "ran" not in capsys.readouterr().out


def test_a_hang_up_saves_what_was_trained(args, whole):
    with pytest.raises(Stopped) as stopped:
        train(args, at(0.5, lambda: os.kill(os.getpid(), signal.SIGHUP)))
    assert stopped.value.code == 129
    assert stopped.value.message == "stopped at step 21 of 40; --resume goes on from here"
    assert untimed(train(replace(args, resume=True))) == untimed(whole[1])


@pytest.mark.parametrize("keep", [True, False])
def test_a_signal_while_measuring_loses_no_step_of_training(keep, args, whole, monkeypatch):
    args = replace(args, keep_checkpoint=keep)
    with monkeypatch.context() as patch:
        patch.setattr(vae_run, "nll", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Stopped, match="143") as stopped:
            train(args)
    assert stopped.value.message == "stopped after the last step; --resume measures again"
    assert not is_finished(args.run_dir)
    monkeypatch.setattr(vae.Trainer, "_advance", None)  # no step is done again
    assert untimed(train(replace(args, resume=True))) == untimed(whole[1])


def test_a_full_disk_costs_checkpoints_and_curves_and_not_the_run(args, whole, capsys):
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
        return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))

    full, freed = at(0.3, limit(1000)), at(1.0, limit(most))

    def progress(done):
        full(done)
        freed(done)

    try:
        result = train(replace(args, checkpoint_minutes=0.0), progress)
    finally:
        limit(most)()
    assert untimed(result) == untimed(whole[1])
    told = capsys.readouterr().err
    assert "no checkpoint at step 14: [Errno 27] File too large" in told
    assert told.count("curves are lost") == 1


def test_a_full_disk_at_the_end_is_told_in_one_line_and_resume_measures(args, whole):
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    full = at(1.0, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, most)))
    try:
        with pytest.raises(UsageError, match="File too large; the same command with --resume"):
            train(args, full)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert not list(args.run_dir.glob("*.tmp"))
    assert untimed(train(replace(args, resume=True))) == untimed(whole[1])


def test_a_likelihood_that_is_nan_ends_the_run_as_failed_in_words(args, monkeypatch, capsys):
    def measured(model, images, protocol):
        with torch.no_grad():
            model.decoder[2].bias[0] = float("nan")
        return vae.nll(model, images, protocol)

    monkeypatch.setattr(vae_run, "nll", measured)
    assert main(args) == 1
    reason = "log p(x) of 300 of 300 test images is not finite, that of image 0 first"
    assert capsys.readouterr().out.splitlines()[-1] == f"failed: {reason}"
    result = read_result(args.run_dir)
    assert (result["status"], result["reason"]) == ("failed", reason)
    assert "nll" not in result
    with pytest.raises(UsageError, match=r"has no model.pt: its run failed"):
        vae.load(args.run_dir)


def test_what_is_nan_between_two_logs_is_in_no_checkpoint(args, monkeypatch):
    advance = vae.Trainer._advance

    def poisoned(trainer, *args, **kwargs):
        changes = advance(trainer, *args, **kwargs)
        if trainer.step >= 23:
            with torch.no_grad():
                trainer.parameters[0][0] = float("nan")
        return changes

    monkeypatch.setattr(vae.Trainer, "_advance", poisoned)
    result = train(replace(args, checkpoint_minutes=0.0))
    assert result["status"] == "failed"
    assert "after 23 gradient steps; first tensor not finite: parameter enc" in result["reason"]
    assert result["steps"] == 20


def trial(norm="weight", algo="mlp", task="digits", norm_kwargs=None, **settings):
    sizes = {"n_steps": 8, "hidden": (12,), "latent_dim": 2, "n_samples": 5, "n_logs": 2}
    return SimpleNamespace(
        task=SimpleNamespace(name=task, algo=algo),
        arm=SimpleNamespace(norm=norm),
        norm_kwargs=norm_kwargs or {},
        seed=3,
        settings={"device": "cpu", "threads": 1, **sizes, **settings},
    )


def test_a_trial_is_trained_as_its_settings_say_and_only_once(tmp_path):
    asked = trial("batch", norm_kwargs={"momentum": 0.02}, learning_rate=1e-3)
    result = vae_run.train(asked, tmp_path / "run")
    assert result["status"] == "finished"
    config = read_config(tmp_path / "run")
    assert config == vae_run.settings(asked) | {"hidden": [12], "image_shape": [1, 8, 8]}
    assert (config["norm"], config["norm_kwargs"], config["seed"]) == (
        "batch", {"momentum": 0.02}, 3,
    )  # fmt: skip
    assert config["learning_rate"] == 1e-3
    written = [path for path in (tmp_path / "run").iterdir() if path.name != ".lock"]
    before = [path.stat().st_mtime_ns for path in written]
    assert vae_run.train(asked, tmp_path / "run") == result
    assert [path.stat().st_mtime_ns for path in written] == before


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (trial(gamma=0.9), "gamma is no setting of a VAE run"),
        (trial("batch", norm_kwargs={"momentun": 0.1}), "momentun"),
        (trial(algo="ppo"), "model must be one of"),
        (trial(learning_rate=-1.0), "learning_rate must be above zero"),
        (trial(threads=0), "threads must be a whole number up to 1024, above zero"),
        (trial(compile=True, objective="dreg"), "compile is not for objective 'dreg'"),
        (trial(task="mnist", data_dir="nowhere"), "data_dir must be a folder that is there, got"),
    ],
)
def test_a_trial_that_cannot_be_done_is_refused_before_anything_is_written(
    asked, message, tmp_path
):
    for call in (vae_run.settings, lambda asked: vae_run.train(asked, tmp_path / "run")):
        with pytest.raises(UsageError, match=message):
            call(asked)
    assert not (tmp_path / "run").exists()


def test_the_models_of_a_study_are_built_once_for_all_seeds_and_rates(monkeypatch):
    built, build = [], vae_run.build
    monkeypatch.setattr(vae_run, "build", lambda config: built.append(config) or build(config))
    vae_run._built.cache_clear()
    for rate in (1e-3, 2e-3):
        for seed in (1, 2):
            asked = trial(learning_rate=rate)
            vae_run.settings(SimpleNamespace(**{**vars(asked), "seed": seed}))
    assert len(built) == 1
    vae_run.settings(trial("layer"))
    assert len(built) == 2
