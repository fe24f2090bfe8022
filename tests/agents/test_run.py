import pickle
import zipfile

import pytest

from agents import AGENTS
from agents.run import load_run, settings, train
from agents.settings import Settings
from wnrl.errors import UsageError
from wnrl.runs import read_config, read_json, write_json
from wnrl.runs.files import file_checksum
from wnrl.study.plan import RETURN, Arm, Study, Task

SMALL = {"total_timesteps": 64, "n_envs": 2, "n_steps": 16, "batch_size": 16, "n_epochs": 1,
         "eval_episodes": 2, "eval_points": 2, "eval_point_episodes": 1}  # fmt: skip


def trial(**values):
    arm = Arm("batch", norm_kwargs={"momentum": 0.3})
    task = Task("CartPole-v1", "ppo", "agents.run:train", RETURN, {**SMALL, **values})
    study = Study("one", [task], [arm], arm.name, seeds=[3])
    return study.trials()[0]


def test_settings_of_a_trial_are_those_of_its_run_folder(tmp_path):
    result = train(trial(), tmp_path / "run", lambda fraction: None)
    config = read_config(tmp_path / "run")
    assert config["norm_kwargs"] == {"momentum": 0.3}
    assert (config["seed"], config["norm"], config["gamma"]) == (3, "batch", 0.98)
    asked = settings(trial())
    assert {key: config[key] for key in asked if key not in ("net_arch", "device")} == {
        key: value for key, value in asked.items() if key not in ("net_arch", "device")
    }
    assert train(trial(), tmp_path / "run", lambda fraction: None) == result


def test_an_agent_is_built_again_from_its_run_folder(tmp_path):
    train(trial(), tmp_path / "run", lambda fraction: None)
    for which in ("last", "best"):
        model, statistics, told = load_run(tmp_path / "run", which)
        assert model.policy.norm == told.norm == "batch"
        assert statistics is None
    with pytest.raises(UsageError, match="which must be one of last, best"):
        load_run(tmp_path / "run", "first")


def test_an_agent_is_not_read_from_a_folder_that_says_something_else(tmp_path):
    train(trial(), tmp_path / "run", lambda fraction: None)
    result = tmp_path / "run" / "result.json"
    values = read_json(result)
    write_json(result, values | {"steps": None})
    with pytest.raises(UsageError, match=r"result\.json is damaged or of another version: TypeE"):
        load_run(tmp_path / "run")
    with zipfile.ZipFile(tmp_path / "run" / "model.zip", "w") as archive:
        archive.writestr("policy.pth", pickle.dumps(print))
    values["files"]["model.zip"] = file_checksum(tmp_path / "run" / "model.zip")
    write_json(result, values)
    reason = "(Weights only|Invalid magic)[^,:]*$"  # torch's, by version
    with pytest.raises(UsageError, match=rf"model\.zip holds another agent: {reason}"):
        load_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"learning_rat": 1.0}, "did you mean 'learning_rate'"),
        ({"n_steps": 0}, "n_steps must be above zero, got 0"),
        ({"eval_points": 0}, "eval_points must be above zero, got 0"),
        ({"variant": "none"}, "variant has no choice here, got 'none'"),
        ({"device": "tpu"}, "device must be auto"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_before_anything_runs(values, told):
    with pytest.raises(UsageError, match=told):
        settings(trial(**values))


@pytest.mark.parametrize("algo", AGENTS)
def test_what_is_not_said_is_the_presets(algo):
    env_id = next(iter(AGENTS[algo].presets))
    task, arm = Task(env_id, algo, "agents.run:train", RETURN), Arm("weight")
    (planned,) = Study("one", [task], [arm], arm.name, seeds=[0]).trials()
    expected = Settings(algo=algo, env_id=env_id, config=AGENTS[algo].preset(env_id)).to_json()
    assert settings(planned) == expected | planned.settings
