import csv
import io
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from wnrl.errors import UsageError
from wnrl.runs import is_finished, write_json
from wnrl.runs.folder import note_crash
from wnrl.study import RETURN, Arm, Study, Task
from wnrl.study.stats import Sample, choice_sd
from wnrl.study.summary import summarise
from wnrl.study.table import to_csv
from wnrl.study.tuning import choose, conduct

RATES = (0.001, 0.003, 0.01)
TASK = Task(
    "CartPole-v1", "ppo", "tests.study.fake_runner:succeed", RETURN, floor=0.0, solved=500.0
)
STUDY = Study(
    "s",
    [TASK],
    [Arm("none"), Arm("weight")],
    "none",
    seeds=range(3),
    tuned={"learning_rate": RATES},
    tuning_seeds=range(100, 103),
)

MANY = replace(STUDY, seeds=range(8))  # whose means have intervals


def trainer(root, score):
    """What trains in ``conduct``, with a score (None for a failure) from a trial, and its calls."""
    calls = []

    def train(trials):
        waiting = [trial for trial in trials if not is_finished(root / trial.folder)]
        calls.append(waiting)
        for trial in waiting:
            (root / trial.folder).mkdir(parents=True, exist_ok=True)
            value = score(trial)
            result = {"status": "finished", "window_return": value}
            if value is None:
                result = {"status": "failed", "reason": "nan"}
            write_json(root / trial.folder / "result.json", result)

    return train, calls


def best_at(**rates):
    """Scores of arms that are best at these rates, with some noise of the seed."""

    def score(trial):
        off = math.log(trial.settings["learning_rate"] / rates[trial.arm.name])
        return 300.0 - 20 * abs(off) + trial.seed % 7

    return score


def chosen(choices):
    return {
        cell[1].name: dict(choice.settings)["learning_rate"] for cell, choice in choices.items()
    }


def test_each_arm_is_compared_at_the_rate_that_was_best_on_tuning_seeds(tmp_path):
    train, calls = trainer(tmp_path, best_at(none=0.003, weight=0.002))
    trials, choices, _ = conduct(STUDY, tmp_path, train)
    assert [len(call) for call in calls] == [2 * 3 * 3, 2 * 3]
    assert {trial.seed for trial in calls[0]} == {100, 101, 102}
    assert {trial.seed for trial in trials} == {0, 1, 2}
    assert chosen(choices) == {"none": 0.003, "weight": 0.003}
    assert {trial.settings["learning_rate"] for trial in trials} == {0.003}


def test_nothing_is_chosen_while_a_tuning_run_has_not_ended(tmp_path):
    train, _ = trainer(tmp_path, best_at(none=0.003, weight=0.002))
    first, second, *others = STUDY.tuning_trials()
    trials, choices, left = conduct(STUDY, tmp_path, lambda trials: train(others))
    assert (trials, choices, left) == ([], {}, [first, second])
    train([first])
    note_crash(tmp_path / second.folder, "killed")  # it has ended, and counts as the worst
    _, _, left = conduct(STUDY, tmp_path, lambda trials: None)
    assert not {first, second, *others} & {*left}  # but those of the wider grid


def test_a_study_that_was_finished_trains_nothing_again(tmp_path):
    train, calls = trainer(tmp_path, best_at(none=0.001, weight=0.003))
    first = conduct(STUDY, tmp_path, train)
    n_calls = len(calls)
    again = conduct(STUDY, tmp_path, train)
    assert not any(calls[n_calls:])
    assert first[0] == again[0]
    assert chosen(first[1]) == chosen(again[1])


@pytest.mark.parametrize("at", [0.003, 0.0333])
def test_a_choice_that_runs_were_made_with_stands_when_what_had_crashed_would_end(tmp_path, at):
    crashed = next(t for t in STUDY.tuning_trials() if t.settings["learning_rate"] == 0.001)
    train, _ = trainer(tmp_path, best_at(none=at, weight=0.003))

    def train_but_one(trials):
        train([trial for trial in trials if trial != crashed])

    note_crash(tmp_path / crashed.folder, "killed")
    _, choices, _ = conduct(STUDY, tmp_path, train_but_one, lambda trials, root: None)
    assert chosen(choices) == {"none": at, "weight": 0.003}
    best, _ = trainer(tmp_path, lambda trial: 1e6)
    again = conduct(replace(STUDY, seeds=range(4)), tmp_path, best, lambda trials, root: None)
    assert chosen(again[1]) == chosen(choices)
    assert not is_finished(tmp_path / crashed.folder)


def test_what_crashed_is_tried_again_until_a_run_is_made_with_the_choice(tmp_path):
    crashed = next(t for t in STUDY.tuning_trials() if t.settings["learning_rate"] == 0.001)
    train, _ = trainer(tmp_path, best_at(none=0.003, weight=0.003))
    note_crash(tmp_path / crashed.folder, "killed")
    tuning = {trial.folder for trial in STUDY.tuning_trials() if trial != crashed}
    conduct(STUDY, tmp_path, lambda trials: train([t for t in trials if t.folder in tuning]))
    assert not is_finished(tmp_path / crashed.folder)
    best, _ = trainer(tmp_path, lambda trial: 1e6)
    conduct(STUDY, tmp_path, best)
    assert is_finished(tmp_path / crashed.folder)


def test_a_grid_is_widened_once_by_its_own_factor_where_its_edge_is_the_best(tmp_path):
    train, calls = trainer(tmp_path, best_at(none=0.003, weight=0.000333))
    _, choices, _ = conduct(STUDY, tmp_path, train)
    assert {trial.settings["learning_rate"] for trial in calls[1]} == {0.000333}
    assert {trial.arm.name for trial in calls[1]} == {"weight"}
    (weight,) = (choice for cell, choice in choices.items() if cell[1].name == "weight")
    assert weight.grid == {"learning_rate": [0.000333, *RATES]}
    assert weight.edges == ("learning_rate",)  # of the wider grid, which is not widened again
    assert len(calls) == 3


def test_an_arm_whose_best_rate_lies_within_the_wider_grid_is_not_at_an_edge(tmp_path):
    train, _ = trainer(tmp_path, best_at(none=0.01, weight=0.001))
    _, choices, _ = conduct(STUDY, tmp_path, train)
    assert chosen(choices) == {"none": 0.01, "weight": 0.001}
    assert [choice.edges for choice in choices.values()] == [(), ()]


@pytest.mark.parametrize(
    ("grid", "best", "wider"),
    [
        ({"n_steps": (32, 64)}, 64, [32, 64, 128]),
        ({"n_steps": (64, 32)}, 64, [128, 64, 32]),
        ({"n_steps": (1, 2)}, 1, [1, 2]),  # half of one is one
        ({"kind": ("a", "b")}, "a", ["a", "b"]),
        ({"ent_coef": (0.0, 0.1)}, 0.0, [0.0, 0.1]),
        ({"learning_rate": (1e-3,)}, 1e-3, [1e-3]),
    ],
)
def test_only_numbers_above_zero_are_widened(tmp_path, grid, best, wider):
    (name,) = grid
    study = replace(STUDY, tuned=grid)
    train, _ = trainer(tmp_path, lambda trial: float(trial.settings[name] == best))
    _, choices, _ = conduct(study, tmp_path, train)
    assert [list(choice.grid[name]) for choice in choices.values()] == [wider, wider]


@pytest.mark.parametrize("words", [("a", "b"), (False, True)])
def test_words_have_no_edge(tmp_path, words):
    train, _ = trainer(tmp_path, lambda trial: float(trial.settings["kind"] == words[1]))
    _, choices, _ = conduct(replace(STUDY, tuned={"kind": words}), tmp_path, train)
    assert {str(choice) for choice in choices.values()} == {f"kind={words[1]}"}


def test_a_value_that_the_runner_refuses_widens_nothing(tmp_path, monkeypatch):
    def settings(trial):
        if trial.settings["gamma"] > 1:
            raise UsageError("gamma must be at most 1")
        return {}

    monkeypatch.setattr("tests.study.fake_runner.settings", settings)
    study = replace(STUDY, tuned={"gamma": (0.9, 0.99)})
    train, calls = trainer(tmp_path, lambda trial: trial.settings["gamma"])
    _, choices, _ = conduct(study, tmp_path, train)
    assert len(calls) == 2
    assert [choice.edges for choice in choices.values()] == [("gamma",)] * 2


def test_a_rate_at_which_runs_fail_is_not_chosen(tmp_path):
    def score(trial):
        failed = trial.settings["learning_rate"] == 0.01 and trial.seed == 101
        return None if failed else 100 + 1000 * trial.settings["learning_rate"]

    train, _ = trainer(tmp_path, score)
    _, choices, _ = conduct(STUDY, tmp_path, train)
    # 110, a failure and 110 are less than 103 thrice; the edge, 0.01, is thus not widened.
    assert set(chosen(choices).values()) == {0.003}


def test_a_rate_with_a_damaged_result_is_not_chosen(tmp_path):
    train, _ = trainer(tmp_path, best_at(none=0.003, weight=0.003))
    trials = STUDY.tuning_trials()
    train(trials)
    spoilt = next(
        t for t in trials if t.arm.name == "weight" and t.settings["learning_rate"] == RATES[1]
    )
    (tmp_path / spoilt.folder / "result.json").write_text("{")
    assert chosen(choose(tmp_path, trials)) == {"none": 0.003, "weight": 0.001}


def test_of_rates_that_are_equally_good_the_middle_one_is_taken(tmp_path):
    train, calls = trainer(tmp_path, lambda trial: 500.0)
    _, choices, _ = conduct(STUDY, tmp_path, train)
    assert set(chosen(choices).values()) == {0.003}
    assert len(calls) == 2


def test_settings_are_chosen_at_every_point_of_the_axes(tmp_path):
    study = replace(STUDY, axes={"noise": (0.0, 1.0)})

    def score(trial):
        return -abs(trial.settings["learning_rate"] - (0.003 if trial.settings["noise"] else 0.001))

    train, _ = trainer(tmp_path, score)
    trials, _, _ = conduct(study, tmp_path, train)
    assert {(t.settings["noise"], t.settings["learning_rate"]) for t in trials} == {
        (0.0, 0.001), (1.0, 0.003),
    }  # fmt: skip


def test_an_arm_has_settings_of_its_own_to_choose_and_options_of_its_norm(tmp_path):
    arm = Arm("weight", tuned={"g_rate": (1.0, 3.0, 9.0), "data_init": (100, 500, 900)})
    study = replace(STUDY, arms=[Arm("none"), arm])

    def score(trial):
        rates = 10 * (trial.norm_kwargs.get("g_rate") == 3.0)
        return rates + float(trial.settings["learning_rate"] == 0.003) + trial.seed

    train, calls = trainer(tmp_path, score)
    trials, choices, _ = conduct(study, tmp_path, train)
    assert len(calls[0]) == 3 * (3 + 27)
    assert {str(trial.norm_kwargs) for trial in trials} == {"{}", "{'g_rate': 3.0}"}
    assert not any("g_rate" in trial.settings for trial in trials)
    plain, weight = summarise(tmp_path, trials, "none", choices)
    assert str(weight.choice) == "learning_rate=0.003; g_rate=3.0; data_init=500"
    lines = list(csv.DictReader(io.StringIO(to_csv([plain, weight]))))
    assert [line["g_rate"] for line in lines] == ["", "3.0"]


def no_rate_is_better(name):
    """Scores that are noise of arm, seed and the setting."""

    def score(trial):
        value = int(1e4 * trial.settings.get(name, 0.0))
        rng = np.random.default_rng([len(trial.arm.name), trial.seed, value])
        return 250.0 + float(rng.normal(0, 50))

    return score


def test_noise_is_only_that_of_the_arms_that_had_a_choice(tmp_path):
    arms = [Arm("none", tuned={"gamma": (0.1, 0.2, 0.3, 0.4)}), Arm("weight")]
    train, _ = trainer(tmp_path, no_rate_is_better("gamma"))
    trials, choices, _ = conduct(replace(MANY, tuned={}, arms=arms), tmp_path, train)
    plain, weight = summarise(tmp_path, trials, "none", choices)
    assert plain.sample.choice_sd > 0
    assert weight.sample.choice_sd == 0
    assert weight.differences.choice_sd == plain.sample.choice_sd


def test_the_noise_of_choosing_widens_score_and_difference(tmp_path):
    train, _ = trainer(tmp_path, no_rate_is_better("learning_rate"))
    trials, choices, _ = conduct(MANY, tmp_path, train)
    plain = summarise(tmp_path, trials, "none")[1]
    tuned = summarise(tmp_path, trials, "none", choices)[1]
    noise = [choice.scores for choice in choices.values()][::-1]
    assert tuned.differences.choice_sd == choice_sd(*noise) > 0
    assert tuned.sample.choice_sd == choice_sd(noise[0]) > 0
    assert tuned.difference.low < plain.difference.low
    assert tuned.difference.high > plain.difference.high


def test_table_says_what_was_chosen_and_where_it_is_an_edge(tmp_path):
    train, _ = trainer(tmp_path, best_at(none=0.003, weight=1e-5))
    trials, choices, _ = conduct(STUDY, tmp_path, train)
    rows = summarise(tmp_path, trials, "none", choices)
    assert [str(row.choice) for row in rows] == [
        "learning_rate=0.003",
        "learning_rate=0.000333, the edge of its grid",
    ]
    lines = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert [line["learning_rate"] for line in lines] == ["0.003", "0.000333"]


def test_noise_of_choosing_is_that_over_all_draws_of_the_seeds():
    scores = np.array([[3.0, 1.0, 4.0], [2.0, 3.5, 2.0], [0.0, 4.0, 3.9]])
    others = np.array([[1.0, 5.0, 2.0], [2.0, 2.0, 3.0]])
    changes = []
    for draw in itertools.product(range(3), repeat=3):
        picked = [arm[:, draw].mean(1).argmax() for arm in (scores, others)]
        changes.append([arm[k].mean() for arm, k in zip((scores, others), picked, strict=True)])
    alone, other = np.array(changes).T
    correction = math.sqrt(3 / 2)
    assert choice_sd(scores) == pytest.approx(correction * alone.std(), rel=0.05)
    assert choice_sd(scores, others) == pytest.approx(correction * (alone - other).std(), rel=0.05)


def test_a_choice_that_no_draw_changes_has_no_noise():
    assert choice_sd(np.array([[1.0, 2.0, 3.0], [5.0, 6.0, 7.0]])) == 0.0


def test_half_an_interval_is_the_root_of_both_squares():
    values = np.linspace(-1, 1, 10)
    plain, wide = Sample(values).mean(), Sample(values, choice_sd=0.2).mean()
    expected = math.hypot(plain.high, 0.2 * stats.t.ppf(0.975, 9))
    assert wide.high == -wide.low == pytest.approx(expected)


def test_studies_from_different_seeds_have_no_run_in_common():
    folders = [
        {trial.folder for trial in (*study.trials(), *study.tuning_trials())}
        for study in (STUDY.from_seed(10 * k) for k in range(5))
    ]
    assert folders[0] == {t.folder for t in (*STUDY.trials(), *STUDY.tuning_trials())}
    assert len(set.union(*folders)) == sum(map(len, folders))


def test_a_task_of_which_nothing_is_tuned_needs_no_tuning_seeds():
    tuned = Arm("weight", tuned={"g_rate": (1.0, 3.0, 9.0)})
    alone = replace(STUDY.tasks[0], variant="plain", arms=("none",), seed_share=0.2)
    tasks = [replace(STUDY.tasks[0], arms=("none", "weight")), alone]
    study = replace(
        STUDY, tasks=tasks, arms=[Arm("none"), tuned], tuned={}, tuning_seeds=range(20, 25)
    )
    assert {trial.task for trial in study.tuning_trials()} == {tasks[0]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tuning_seeds": range(2, 5)}, "seeds and tuning_seeds must differ, got 2 twice"),
        ({"tuning_seeds": [20, 21]}, r"tuning_seeds must be 3 or more, got \[20, 21\]"),
        ({"tuning_seeds": range(-3, 0)}, "tuning_seeds must be zero or above, got -3"),
        ({"tuned": {"learning_rate": []}}, "axis learning_rate must have one entry or more"),
        ({"axes": {"learning_rate": [1]}}, "axes and tuned must differ, got 'learning_rate' twice"),
        (
            {"arms": [Arm("none", settings={"learning_rate": 1})]},
            "learning_rate is an axis and a setting of arm none",
        ),
    ],
)
def test_a_study_that_cannot_be_tuned_is_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        replace(STUDY, **changes)
