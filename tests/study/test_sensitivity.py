import itertools
from dataclasses import replace

import numpy as np
import pytest

from wnrl.runs import write_json
from wnrl.study import RETURN, Arm, Study, Task
from wnrl.study.report import Findings, write_report
from wnrl.study.sensitivity import dimensionality, sensitivities, sensitivity
from wnrl.study.summary import summarise
from wnrl.study.tuning import conduct

TASKS = [Task(name, "ppo", "a:b", RETURN, floor=0.0, solved=1.0) for name in ("A-v0", "B-v0")]
GRID = {"learning_rate": (1e-3, 1e-2), "gamma": (0.9, 0.99)}
SCORES = {  # of task A and task B at each setting, in the order of the grid
    "none": ([1.0, 0.5, 0.2, 0.0], [0.2, 0.0, 1.0, 0.5]),
    "layer": ([0.9, 0.9, 0.0, 0.0], [0.9, 0.8, 0.0, 0.0]),
}


def study(seeds=10, tasks=TASKS, arms=("none", "layer"), **options):
    seeds = range(1000, 1000 + seeds)
    chosen = [Arm(name) for name in arms]
    return Study("s", tasks, chosen, "none", range(8), tuned=GRID, tuning_seeds=seeds, **options)


def rows(root, study, score):
    def train(trials):
        for trial in trials:
            (root / trial.folder).mkdir(parents=True, exist_ok=True)
            result = {"status": "finished", "window_return": score(trial)}
            write_json(root / trial.folder / "result.json", result)

    trials, choices, _ = conduct(study, root, train)
    return summarise(root, trials, study.baseline, choices)


@pytest.fixture(autouse=True)
def _no_widening(monkeypatch):
    monkeypatch.setattr("wnrl.study.tuning._widened", lambda *arguments: {})


def known(trial):
    settings = dict(trial.choice)
    values = [(lr, g) for lr, g in itertools.product(*GRID.values())]
    place = values.index((settings["learning_rate"], settings["gamma"]))
    return SCORES[trial.arm.name][TASKS.index(trial.task)][place]


def test_what_the_settings_best_for_all_tasks_lose_is_the_sensitivity(tmp_path):
    none, layer = sensitivities(rows(tmp_path, study(), known))
    # Over all runs the percentiles are 0 and 1 in both tasks, but for A's 95th, which is 1.
    assert none.best == pytest.approx(1.0)
    assert none.lost.value == pytest.approx(1.0 - 0.6)  # 0.6 is the mean at the first and third
    assert layer.lost.value == pytest.approx(0.0)
    assert layer.difference.value == pytest.approx(-0.4)
    assert none.difference is None
    assert none.settings == ("learning_rate", "gamma")


def test_the_settings_that_have_to_be_chosen_for_each_task_are_counted(tmp_path):
    none, layer = sensitivities(rows(tmp_path, study(), known))
    assert (none.dimensionality, layer.dimensionality) == (1, 0)
    apart = np.array([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]])
    assert dimensionality(apart) == 2


def test_sensitivity_of_many_draws_is_that_of_each():
    scores = np.random.default_rng(0).uniform(size=(6, 3, 2, 4))
    each = [sensitivity(draw, 2) for draw in scores]
    np.testing.assert_array_equal(sensitivity(scores, 2), each)
    by_hand = scores[0].reshape(3, 8)
    assert each[0] == by_hand.max(1).mean() - by_hand.mean(0).max()


def test_the_interval_holds_the_value_and_narrows_with_seeds(tmp_path):
    rng = np.random.default_rng(0)

    def noisy(trial):
        return known(trial) + rng.normal(0, 0.1)

    few = sensitivities(rows(tmp_path / "few", study(8), noisy))[1].difference
    many = sensitivities(rows(tmp_path / "many", study(80), noisy))[1].difference
    assert few.low <= few.value <= few.high < 0
    assert many.high - many.low < (few.high - few.low) / 2


@pytest.mark.parametrize("of", [{"seeds": 7}, {"tasks": TASKS[:1]}])
def test_few_seeds_and_a_single_task_have_no_sensitivity(tmp_path, of):
    assert sensitivities(rows(tmp_path, study(**of), known)) == []


def test_values_that_only_some_grids_have_do_not_count(tmp_path):
    plain = rows(tmp_path, study(), known)
    wider = [
        replace(row, choice=_wider(row.choice)) if row.arm.name == "layer" else row for row in plain
    ]
    assert sensitivities(wider) == sensitivities(plain)


def _wider(choice):
    """Return the choice with one more learning rate, at which everything is better, in front."""
    grid = {**choice.grid, "learning_rate": [1e-4, *choice.grid["learning_rate"]]}
    return replace(choice, grid=grid, scores=np.concatenate([choice.scores[:2] + 9, choice.scores]))


def test_what_only_one_arm_chooses_is_left_as_it_chose(tmp_path):
    arms = [Arm("none"), Arm("weight", tuned={"g_rate": (1.0, 8.0)})]

    def score(trial):
        return SCORES["none"][TASKS.index(trial.task)][0] + trial.norm_kwargs.get("g_rate", 0) / 10

    found = rows(tmp_path, replace(study(), arms=arms), score)
    weight = next(row for row in found if row.arm.name == "weight")
    grid = {"learning_rate": (1e-2,), "gamma": (0.99, 0.9)}
    assert weight.choice.scores_at(grid).shape == (1, 2, 10)
    np.testing.assert_allclose(weight.choice.scores_at(grid), SCORES["none"][0][0] + 0.8)
    assert [each.settings for each in sensitivities(found)] == [("learning_rate", "gamma")] * 2


def test_arms_may_name_their_settings_in_any_order(tmp_path):
    grid = {"learning_rate": (1e-3, 1e-2, 1e-1), "gamma": (0.9, 0.99)}
    best = {"A-v0": (("gamma", 0.9), ("learning_rate", 1e-3)),
            "B-v0": (("gamma", 0.99), ("learning_rate", 1e-2))}  # fmt: skip
    arms = [Arm("none", tuned=grid), Arm("layer", tuned=dict(reversed(grid.items())))]

    def score(trial):
        return float(tuple(sorted(trial.choice)) == best[trial.task.name])

    found = rows(tmp_path, replace(study(), arms=arms, tuned={}), score)
    assert [each.dimensionality for each in sensitivities(found)] == [2, 2]


@pytest.mark.parametrize("shared", [{"gamma": GRID["gamma"]}, {}])
def test_a_setting_of_which_arms_have_no_value_in_common_does_not_count(tmp_path, shared):
    rates = {"none": (1e-4, 1e-3), "layer": (1e-2, 1e-1)}
    arms = [Arm(name, tuned={"learning_rate": tried}) for name, tried in rates.items()]
    planned = replace(study(), arms=arms, tuned=shared)
    found = rows(tmp_path, planned, lambda trial: dict(trial.choice)["learning_rate"])
    assert [each.settings for each in sensitivities(found)] == [("gamma",)] * 2 * len(shared)


def test_the_report_says_it(tmp_path):
    found = rows(tmp_path, study(), known)
    write_report(tmp_path / "report.html", Findings("s", "none", tmp_path, found))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Sensitivity to learning_rate, gamma" in page
    assert all(str(each) in page for each in sensitivities(found))
