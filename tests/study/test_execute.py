import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import fake_runner

from wnrl.errors import UsageError
from wnrl.runs import write_json
from wnrl.study import NLL, RETURN, Arm, Study, Task
from wnrl.study.execute import check_trials, load_study, runner


def test_a_runner_is_found_by_its_name():
    assert runner("fake_runner:succeed") == (fake_runner.succeed, fake_runner)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fake_runner", "must be module:function, got 'fake_runner'"),
        ("no_such_module:train", "cannot be imported: ModuleNotFoundError"),
        ("fake_runner:no_such_function", "fake_runner has no function 'no_such_function'"),
        ("json:dumps", "json has no function 'settings'"),
    ],
)
def test_a_runner_that_does_not_exist_is_refused(name, message):
    with pytest.raises(UsageError, match=message):
        runner(name)


@pytest.mark.parametrize("rate", [-1, "fast"])
def test_a_setting_that_a_runner_refuses_is_told_with_its_trial(tmp_path, rate):
    trials = fake_runner.study_of("succeed", axes={"learning_rate": (1, rate)}).trials()
    with pytest.raises(UsageError, match=rf"learning_rate={rate} · seed 0: learning_rate must be"):
        check_trials(trials, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_a_run_of_other_settings_is_refused_before_anything_runs(tmp_path):
    before = fake_runner.study_of("succeed", settings={"gamma": 1}).trials()
    fake_runner.succeed(before[-1], tmp_path / before[-1].folder, lambda fraction: None)
    check_trials(before, tmp_path)
    after = fake_runner.study_of("succeed", settings={"gamma": 2}).trials()
    with pytest.raises(UsageError, match=r"gamma=1 \(asked: 2\)"):
        check_trials(after, tmp_path)


AGENT = Task("CartPole-v1", "ppo", "agents.run:train", RETURN, {"total_timesteps": 100})
VAE = Task("digits", "mlp", "wnrl.vae.run:train", NLL, {"epochs": 1}, length="epochs")


@pytest.mark.parametrize("task", [AGENT, VAE], ids=["agent", "vae"])
@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"name": "Nowhere-v0"}, {}, "Nowhere-v0"),
        ({"algo": "pppo"}, {}, "must be one of"),
        ({"settings": {"lr": 1}}, {}, "lr"),
        ({"settings": {"learning_rate": -1}}, {}, "learning_rate must be above zero, got -1"),
        ({"settings": {"learning_rate": "fast"}}, {}, "fast|learning_rate|TypeError"),
        ({"settings": {"device": "gpu"}}, {}, "device must be auto, cpu"),
        ({}, {"norm_kwargs": {"scael": 1}}, "norm_kwargs for 'weight' may hold .* got 'scael'"),
    ],
)
def test_our_runners_refuse_what_there_is_not_before_anything_runs(
    tmp_path, task, changes, options, message
):
    def trials(task, **options):
        arms = [Arm("weight", **options)]
        return Study("s", [task], arms, "weight", seeds=[0]).trials()

    check_trials(trials(task), tmp_path)
    with pytest.raises(UsageError, match=message):
        check_trials(trials(replace(task, **changes), **options), tmp_path)
    assert not list(tmp_path.iterdir())


WITHOUT_PRESET = replace(AGENT, name="MountainCar-v0")
SIZED = replace(VAE, settings={"epochs": 1, "latent_dim": 16})


@pytest.mark.parametrize("task", [WITHOUT_PRESET, SIZED], ids=["agent", "vae"])
def test_a_folder_older_than_any_setting_that_has_its_default_is_gone_on_with(tmp_path, task):
    (trial,) = Study("s", [task], [Arm("weight")], "weight", seeds=[3]).trials()
    settings = runner(trial.task.runner)[1].settings(trial)
    folder = tmp_path / trial.folder
    for older in settings.keys() - {"seed", "env_id", *trial.settings}:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "config.json", {k: v for k, v in settings.items() if k != older})
        check_trials([trial], tmp_path)
    write_json(folder / "config.json", {k: v for k, v in settings.items() if k != "seed"})
    with pytest.raises(UsageError, match=r"seed=None \(asked: 3\)"):
        check_trials([trial], tmp_path)


@pytest.fixture
def leave_path_alone(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.mark.usefixtures("leave_path_alone")
@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("broken_study", "STUDY = (", "cannot be imported: SyntaxError"),
        ("leaving_study", "raise SystemExit(0)", "cannot be imported: SystemExit"),
        ("no_study", "STUDY = 3", "must be a wnrl.study.Study, got 3"),
        ("json", "", "needs another name: json cannot be imported or is taken"),
        ("my-study", "", "needs another name"),
    ],
)
def test_a_file_that_is_no_study_is_refused_in_one_line(tmp_path, name, text, message):
    (tmp_path / f"{name}.py").write_text(text)
    with pytest.raises(UsageError, match=message) as refused:
        load_study(tmp_path / f"{name}.py")
    assert "\n" not in str(refused.value)


def test_a_study_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is no Python file"):
        load_study(tmp_path / "nothing.py")
