"""A run that was stopped goes on as if it had not been."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from scripts.train_vae import main
from tests.programs import vae_args
from tests.vae.written import train
from wnrl import tags, vae
from wnrl.errors import UsageError
from wnrl.runs import Stopped, read_config, read_result, write_json
from wnrl.runs.files import read_values, write_values
from wnrl.runs.session import KIND

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "train_vae.py"
TINY = {"n_steps": 40, "hidden": (12,), "latent_dim": 2, "n_samples": 5, "n_logs": 4}
ARGS = vae_args(norm="batch", device="cpu", ema_epochs=0.5, **TINY)


def changed(args, **settings):
    """Return ``args`` with other settings of the run."""
    return replace(args, config=replace(args.config, **settings))


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _progress_at_every_step(monkeypatch):
    monkeypatch.setattr("wnrl.runs.session.PROGRESS_SECONDS", 0.0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, train(replace(ARGS, run_dir=folder))


def stop_at(share):
    """A progress callback that presses Ctrl-C."""

    def progress(done):
        if done >= share:
            os.kill(os.getpid(), signal.SIGINT)

    return progress


@pytest.fixture
def stopped(tmp_path):
    args = replace(ARGS, run_dir=tmp_path / "run")
    with pytest.raises(Stopped) as raised:
        train(args, stop_at(0.5))
    return args, raised.value


def scalars(folder):
    events = EventAccumulator(str(folder))
    events.Reload()
    rows = {
        tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }
    del rows[tags.STEPS_PER_SECOND]
    return rows


def test_ctrl_c_saves_and_says_how_to_go_on(stopped):
    args, signalled = stopped
    assert signalled.code == 130
    assert signalled.message == "stopped at step 21 of 40; --resume goes on from here"
    assert (args.run_dir / "checkpoint.zip").exists()
    assert not (args.run_dir / "result.json").exists()


def test_resumed_run_is_equal_bit_for_bit_to_one_that_was_not_stopped(whole, stopped, capsys):
    folder, result = whole
    args, _ = stopped
    for path in args.run_dir.glob("events*"):  # what a crash after the checkpoint leaves
        path.write_bytes(path.read_bytes() + b"half an event")
    resumed = train(replace(args, resume=True))
    assert "resumed at step 21 of 40" in capsys.readouterr().err
    timed = {"steps_per_second", "images_per_second", "wall_time", "memory_mib"}
    assert {k: v for k, v in resumed.items() if k not in timed} == {
        k: v for k, v in result.items() if k not in timed
    }
    first, second = (torch.load(f / "model.pt", weights_only=True) for f in (folder, args.run_dir))
    for kind, state in first["weights"].items():
        for name, value in state.items():
            assert torch.equal(value, second["weights"][kind][name])
    assert scalars(args.run_dir) == scalars(folder)
    per_image = [np.load(f / "per_image_nll.npy") for f in (folder, args.run_dir)]
    assert np.array_equal(*per_image)


def test_an_unfinished_run_with_a_checkpoint_wants_resume(stopped):
    args, _ = stopped
    before = {path: path.read_bytes() for path in args.run_dir.iterdir()}
    with pytest.raises(UsageError, match=r"stopped at step 21 of 40: --resume goes on from there"):
        train(args)
    assert {path: path.read_bytes() for path in args.run_dir.iterdir()} == before


def as_of_before(folder, select):
    """Let the folder of a run be as runs left it that were begun with a setting of before."""
    write_json(folder / "config.json", {**read_config(folder), "select": select})
    saved = read_values(folder / "checkpoint.zip", KIND)
    saved["work"]["trainer"]["best"] = None
    write_values(folder / "checkpoint.zip", KIND, saved)


def test_a_run_that_was_begun_with_a_former_setting_goes_on(whole, stopped):
    args, _ = stopped
    as_of_before(args.run_dir, "last")
    assert train(replace(args, resume=True))["nll"] == whole[1]["nll"]
    assert read_config(args.run_dir)["select"] == "last"
    assert train(args)["nll"] == whole[1]["nll"]  # nothing is trained
    vae.load(args.run_dir)
    longer = replace(changed(args, n_steps=60), resume=True)
    assert train(longer)["selected"] == "last: step 60"


@pytest.mark.parametrize("resume", [True, False])
def test_a_run_with_what_a_former_setting_cannot_be_any_more_is_refused(stopped, resume):
    args, _ = stopped
    as_of_before(args.run_dir, "best")
    with pytest.raises(UsageError, match=r"^select of a VAE run is 'last' alone .*, got 'best'$"):
        train(replace(args, resume=resume))


def test_resume_begins_where_the_folder_is_empty(whole, tmp_path):
    again = train(replace(ARGS, run_dir=tmp_path / "new", resume=True))
    assert again["nll"] == whole[1]["nll"]


def test_a_finished_run_goes_on_to_more_steps_with_resume_alone(tmp_path, capsys):
    args = replace(ARGS, run_dir=tmp_path / "run")
    train(args)
    longer = changed(args, n_steps=60)
    with pytest.raises(UsageError, match="finished run of 40 steps; --resume extends it to 60"):
        train(longer)
    result = train(replace(longer, resume=True))
    assert result["steps"] == 60
    assert result["curve"]["steps"][:4] == [10, 20, 30, 40]
    config = read_config(args.run_dir)
    assert (config["n_steps"], config["extended_from"]) == (60, [40])
    assert "schedules are over all 60 steps, not over 40" in capsys.readouterr().err
    assert vae.load(args.run_dir).latent_dim == 2


def test_what_a_finished_run_reported_is_gone_once_it_goes_on(tmp_path):
    args = replace(ARGS, run_dir=tmp_path / "run")
    train(args)
    (args.run_dir / "notes.txt").touch()
    with pytest.raises(Stopped):
        train(replace(changed(args, n_steps=200), resume=True), stop_at(0.4))
    left = {path.name for path in args.run_dir.iterdir() if not path.name.startswith("events")}
    assert left - {".lock"} == {"config.json", "versions.json", "checkpoint.zip", "notes.txt"}
    with pytest.raises(UsageError, match=r"has no model.pt: it is not finished"):
        vae.load(args.run_dir)


def test_without_a_kept_checkpoint_a_finished_run_cannot_be_extended(tmp_path):
    args = replace(ARGS, run_dir=tmp_path / "run", keep_checkpoint=False)
    train(args)
    assert not (args.run_dir / "checkpoint.zip").exists()
    with pytest.raises(UsageError, match=r"has no checkpoint.zip, from which it could go on"):
        train(replace(changed(args, n_steps=60), resume=True))


def test_resuming_with_another_configuration_is_refused(stopped):
    args, _ = stopped
    with pytest.raises(UsageError, match=r"latent_dim=2 \(asked: 3\)"):
        train(replace(changed(args, latent_dim=3), resume=True))


@pytest.mark.parametrize("resume", [True, False])
def test_a_folder_of_something_else_than_a_vae_is_called_that(tmp_path, resume):
    config = tmp_path / "config.json"
    write_json(config, {"algo": "ppo", "gamma": 0.99})
    with pytest.raises(UsageError) as refused:
        train(replace(ARGS, run_dir=tmp_path, resume=resume))
    told = "holds a run of another program: its config.json has no epochs and no n_steps"
    assert str(refused.value).startswith(f"run_dir {tmp_path} {told}")
    assert list(tmp_path.iterdir()) == [config]


def test_a_damaged_checkpoint_is_refused_and_kept(stopped):
    args, _ = stopped
    path = args.run_dir / "checkpoint.zip"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UsageError, match=r"checkpoint.zip is damaged"):
        train(replace(args, resume=True))
    assert path.stat().st_size == 1000


def test_a_nan_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    advance = vae.Trainer._advance

    def poisoned(self, *args, **kwargs):
        if self.step == 23:
            with torch.no_grad():
                self.model.decoder[2].bias[0] = float("nan")
        return advance(self, *args, **kwargs)

    monkeypatch.setattr(vae.Trainer, "_advance", poisoned)
    args = replace(changed(ARGS, norm="none"), run_dir=tmp_path / "run")
    assert main(args) == 1
    result = read_result(args.run_dir)
    assert "first tensor not finite: output of decoder.2, step 24" in result["reason"]
    assert result["reason"].endswith("the last good state is that of step 20")
    state = read_values(args.run_dir / "checkpoint.zip", KIND)["work"]["trainer"]
    assert state["step"] == result["steps"] == 20
    assert all(value.isfinite().all() for value in state["model"].values())


def test_ctrl_c_in_a_terminal_ends_with_130_between_two_steps(tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, str(SCRIPT), "--run-dir", str(folder), "--n-steps", "1000000"]
    child = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    for _ in range(600):
        if list(folder.glob("events*")):
            break
        time.sleep(0.1)
    time.sleep(0.5)
    child.send_signal(signal.SIGINT)
    _, told = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "of 1000000; --resume goes on from here\n" in told
    assert not (folder / "result.json").exists()
