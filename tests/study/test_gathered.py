import pytest

from tests.study.test_summary import finish
from wnrl.errors import UsageError
from wnrl.runs import write_json
from wnrl.study.folder import Shard, open_study
from wnrl.study.gathered import gather
from wnrl.study.plan import NLL, RETURN, Arm, Study, Task, Trial
from wnrl.study.report import write_report
from wnrl.study.tuning import conduct

CARTPOLE = Task("CartPole-v1", "ppo", "a:b", RETURN)
ARMS = [Arm("none"), Arm("weight")]


def single(root, folder, score, task=CARTPOLE, **config):
    """A run of no study, finished where it has a score."""
    trial = Trial(task, Arm(config["norm"]), config["seed"], {}, place=root / folder)
    names = ("dataset", "model") if task.metric == NLL else ("env_id", "algo")
    named = dict(zip(names, (task.name, task.algo), strict=True))
    if score is None:
        (root / folder).mkdir(parents=True)
    else:
        finish(root, trial, score)
    write_json(root / folder / "config.json", {**named, **config})


def test_single_runs_are_compared_as_if_a_study_had_planned_them(tmp_path):
    for seed in (0, 1):
        single(tmp_path, f"a{seed}", 100.0, norm="none", seed=seed, net_arch=[64], device="cpu")
        single(tmp_path, f"b/{seed}", 110.0, norm="weight", seed=seed, net_arch=[64], device="cuda")
    single(tmp_path, "vae", 23.0, Task("digits", "mlp", "", NLL), norm="none", seed=0)
    single(tmp_path, "begun", None, norm="weight", seed=2, net_arch=[64])
    (found,) = gather(tmp_path)
    rows = {(row.task.title, row.name): row for row in found.rows}
    assert list(rows) == [
        ("ppo · CartPole-v1", "none"), ("ppo · CartPole-v1", "weight"), ("mlp · digits", "none"),
    ]  # fmt: skip
    weight = rows["ppo · CartPole-v1", "weight"]
    assert list(weight.differences.values) == [10.0, 10.0]
    assert weight.reasons == {2: "unfinished"}


def test_settings_in_which_single_runs_differ_are_axes(tmp_path):
    for norm in ("none", "weight"):
        for rate in (0.1, 0.2):
            single(tmp_path, f"{norm}{rate}", rate, norm=norm, seed=0, learning_rate=rate, gamma=1)
    (found,) = gather(tmp_path, baseline="weight")
    assert [(row.name, row.score.value) for row in found.rows] == [
        ("none, learning_rate=0.1", 0.1), ("none, learning_rate=0.2", 0.2),
        ("weight, learning_rate=0.1", 0.1), ("weight, learning_rate=0.2", 0.2),
    ]  # fmt: skip
    assert found.rows[0].difference.value == 0.0


def test_a_run_that_is_there_twice_is_refused(tmp_path):
    for folder in ("a", "b"):
        single(tmp_path, folder, 1.0, norm="none", seed=0)
    with pytest.raises(UsageError, match="hold the same run"):
        gather(tmp_path)


def test_a_folder_whose_configuration_is_of_something_else_is_no_run(tmp_path):
    single(tmp_path, "ours", 1.0, norm="none", seed=0)
    (tmp_path / "other").mkdir()
    write_json(tmp_path / "other" / "config.json", {"dataset": "digits", "epochs": 2})
    (found,) = gather(tmp_path)
    assert [row.task.name for row in found.rows] == ["CartPole-v1"]


def test_an_empty_folder_and_an_unknown_baseline_are_refused(tmp_path):
    with pytest.raises(UsageError, match="no run and no study in"):
        gather(tmp_path)
    with pytest.raises(UsageError, match="baseline must be one of"):
        gather(tmp_path, "nothing")


def test_a_study_that_was_stopped_is_read_as_far_as_it_came(tmp_path):
    study = Study("s", [CARTPOLE], ARMS, "weight", tuned={"learning_rate": (0.1, 0.2, 0.4)},
                  tuning_seeds=range(100, 103))  # fmt: skip
    root = tmp_path / "below" / "s"
    with open_study(root, study, [], Shard()):
        pass

    def train(trials):
        for trial in trials:
            if trial.seed != 2 and not (root / trial.folder).exists():
                finish(root, trial, trial.settings["learning_rate"])

    _, choices, _ = conduct(study, root, train, lambda trials, root: None)
    assert {dict(choice.settings)["learning_rate"] for choice in choices.values()} == {0.8}
    single(tmp_path, "alone", 1.0, norm="none", seed=0)
    found, alone = gather(tmp_path)
    assert (found.name, found.baseline, alone.name) == ("s", "weight", tmp_path.name)
    assert [row.choice.settings for row in found.rows] == [(("learning_rate", 0.8),)] * 2
    assert [row.reasons for row in found.rows] == [{2: "unfinished"}] * 2


def test_of_a_study_that_was_stopped_while_it_chose_no_run_counts_as_unfinished(tmp_path):
    study = Study("s", [CARTPOLE], ARMS, "none", tuned={"learning_rate": (0.1, 0.2, 0.4)},
                  tuning_seeds=range(100, 103))  # fmt: skip
    with open_study(tmp_path, study, [], Shard()):
        pass
    for trial in study.tuning_trials()[:4]:
        finish(tmp_path, trial, 1.0)
    (part,) = gather(tmp_path)
    assert part.rows == []
    write_report(tmp_path / "report.html", part)
    page = (tmp_path / "report.html").read_text()
    waits = "nothing is compared yet: 14 runs that settings are chosen by have not ended"
    assert page.index(waits) < page.index("How to read this")
    assert "unfinished" not in page
