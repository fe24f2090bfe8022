import re
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest

from tests.study.test_summary import HIGH, finish, report, summary
from wnrl.runs import write_json
from wnrl.study.folder import Shard, open_study, read_study
from wnrl.study.plan import NLL, RETURN, Arm, Study, Task
from wnrl.study.summary import summarise
from wnrl.study.tuning import choose

ARMS = [Arm("none"), Arm("weight")]


def rows_of(root, study, chosen=None):
    return summarise(root, study.trials(), study.baseline, chosen or {})


@pytest.fixture
def one_task(tmp_path):
    """Two arms, three seeds; a run of weight costs twice the time of one of none."""
    study = Study("s", [HIGH], ARMS, "none")
    for trial in study.trials():
        slow = 2 if trial.arm.name == "weight" else 1
        finish(tmp_path, trial, 100.0 + trial.seed, steps=20, steps_per_second=10 / slow,
               wall_time=6.0 * slow, batch_members=2, memory_mib=50.0, parameters=1234,
               diagnostics={"units_dormant": 0.25})  # fmt: skip
    return tmp_path, study


def test_cost_stands_beside_the_scores_and_a_run_of_a_batch_has_its_share(one_task):
    root, study = one_task
    page = report(root, rows_of(root, study))
    rows = re.findall("<tr><td>.*?</tr>", page)
    weight = next(row for row in rows if "weight" in row and "1,234" in row)
    assert re.findall("<td>([^<]*)</td>", weight)[:4] == ["6", "5", "50", "1,234"]


def test_at_equal_time_a_slow_arm_is_as_far_as_it_came_meanwhile(one_task):
    none, weight = rows_of(*one_task)
    assert (none.time, weight.time) == (2.0, 2.0)  # none's 20 steps at 10 a second
    assert none.at_time.value == pytest.approx(0.95 * 101)  # around step 19
    assert weight.at_time.value == pytest.approx(101 / 2)  # at step 10 the curve is at half


def test_diagnostics_are_shown_as_means_over_runs(one_task):
    root, study = one_task
    page = report(root, rows_of(root, study))
    assert "<th>units_dormant</th>" in page
    assert "<td>0.25</td>" in page


def test_every_run_is_a_link_to_its_folder_from_list_and_dot(one_task):
    root, study = one_task
    page = report(root, rows_of(root, study))
    for trial in study.trials():
        link = f"ppo/{trial.arm.name}/seed{trial.seed}"
        assert f"href='CartPole-v1/{link}'>{trial.seed}</a>" in page
        assert f'xlink:href="CartPole-v1/{link}"' in page
    (root / "elsewhere").mkdir()
    page = report(root, rows_of(root, study), name="elsewhere/page.html")
    assert "href='s" not in page


def test_runs_in_a_line_have_a_space_between_them(one_task):
    root, study = one_task
    page = report(root, rows_of(root, study))
    assert re.search(r"</a> [\d.]+, <a href=", page)


def test_settings_that_all_runs_share_are_told_once_and_the_others_by_arm(one_task):
    root, study = one_task
    for trial in study.trials():
        config = {"gamma": 0.98, "norm": trial.arm.name, "seed": trial.seed}
        write_json(root / trial.folder / "config.json", config)
    page = report(root, rows_of(root, study))
    assert page.count("gamma") == 1
    assert "gamma <code>0.98</code>" in page
    assert "<th>norm</th>" in page
    assert "<th>seed</th>" not in page


def test_an_arm_of_which_no_run_has_begun_differs_in_no_setting(tmp_path):
    study = Study("s", [HIGH], ARMS, "none")
    for trial in study.trials():
        if trial.arm.name == "weight":
            finish(tmp_path, trial, 100.0)
            write_json(tmp_path / trial.folder / "config.json", {"gamma": 0.98})
    page = report(tmp_path, rows_of(tmp_path, study))
    assert "gamma <code>0.98</code>" in page
    assert "<th>gamma</th>" not in page


def test_scores_over_what_was_tuned_mark_the_choice_and_the_edge(tmp_path):
    study = Study("s", [HIGH], ARMS, "none", tuned={"learning_rate": (0.001, 0.01, 0.1)},
                  tuning_seeds=range(100, 103))  # fmt: skip
    for trial in study.tuning_trials():
        rate = trial.settings["learning_rate"]
        finish(tmp_path, trial, rate if trial.arm.name == "weight" else -abs(rate - 0.01))
    choices = choose(tmp_path, study.tuning_trials())
    assert [choice.means("learning_rate") for choice in choices.values()] == [
        [pytest.approx(-0.009), 0.0, pytest.approx(-0.09)], [0.001, 0.01, pytest.approx(0.1)],
    ]  # fmt: skip
    trials = study.trials({cell: choice.settings for cell, choice in choices.items()})
    page = report(tmp_path, summarise(tmp_path, trials, "none", choices))
    assert ">learning_rate</text>" in page
    assert page.count(">edge</text>") == 1
    assert "weight</b> has learning_rate=0.1, the edge of its grid" in page


def test_tasks_that_differ_by_a_dial_give_a_curve_an_arm(tmp_path):
    tasks = [replace(HIGH, name=f"Noise{x}-v0", dial=("noise", x)) for x in (0.0, 0.5)]
    study = Study("s", tasks, ARMS, "none")
    for trial in study.trials():
        finish(tmp_path, trial, 100.0 + trial.seed - 50 * trial.task.dial[1])
    page = report(tmp_path, rows_of(tmp_path, study))
    assert "<h2>ppo over noise</h2>" in page
    one = Study("s", tasks[:1], ARMS, "none")
    assert "over noise" not in report(tmp_path, rows_of(tmp_path, one))


def test_an_axis_of_numbers_gives_a_curve_an_arm(tmp_path):
    study = Study("s", [HIGH], ARMS, "none", axes={"gamma": (0.9, 0.99)})
    for trial in study.trials():
        finish(tmp_path, trial, 100.0 + trial.seed)
    page = report(tmp_path, rows_of(tmp_path, study))
    assert "over gamma</h2>" in page
    assert page.count(">0.9</text>") == page.count(">0.99</text>") == 1  # ticks where runs are


def test_an_axis_that_is_a_switch_gives_no_curve(tmp_path):
    study = Study("s", [HIGH], ARMS, "none", axes={"data_init": (False, True)})
    for trial in study.trials():
        finish(tmp_path, trial, 100.0 + trial.seed)
    assert "over data_init</h2>" not in report(tmp_path, rows_of(tmp_path, study))


def test_arms_of_one_colour_differ_in_their_markers(tmp_path):
    arms = [Arm(f"a{k}", "none") for k in range(6)]
    study = Study("s", [HIGH], arms, "a0")
    for trial in study.trials():
        finish(tmp_path, trial, 100.0 + trial.seed)
    page = report(tmp_path, rows_of(tmp_path, study), baseline="a0")
    marks = {re.search(f">(.)</span>&nbsp;<b>{arm.name}<", page)[1] for arm in arms}
    assert len(marks) == len(arms)


def test_whatever_an_environment_says_is_text_and_no_formula(tmp_path):
    name = "<b>$x^2$</b>\x1b[31m"
    task = Task(name, "ppo", "a:b", replace(RETURN, label=name, curve_label=name, steps=name),
                floor=0.0, solved=1.0)  # fmt: skip
    study = Study("s", [task], ARMS, "none", seeds=range(8))
    for trial in study.trials():
        finish(tmp_path, trial, 100.0 + trial.seed % 3)
    page = report(tmp_path, rows_of(tmp_path, study))
    assert "<b>$x" not in page
    assert "\x1b" not in page
    assert "&lt;b&gt;$x^2$&lt;/b&gt;" in page


def test_a_study_is_read_from_its_folder_as_it_was_written(tmp_path):
    task = Task("digits", "mlp", "wnrl.vae.run:train", NLL, {"epochs": 2}, also=(NLL,),
                arms=("none", "mine"), floor=100.0, solved=1.0, dial=("size", 2.0))  # fmt: skip
    study = Study("s", [task], [Arm("none"), Arm("mine", "spectral", settings={"lr": 1})], "none",
                  seeds=range(3), tuned={"learning_rate": (0.1, 0.2)})  # fmt: skip
    with open_study(tmp_path / "s", study, [], Shard(), "one command"):
        pass
    again = read_study(tmp_path / "s")
    assert again.trials() == study.trials()
    assert again.tuning_trials() == study.tuning_trials()


def test_numbers_of_a_study_may_be_of_numpy(tmp_path):
    task, axes = Task("digits", "mlp", "a:b", NLL), {"batch_size": list(2 ** np.arange(5, 7))}
    study = Study("s", [task], [Arm("none")], "none", seeds=list(np.arange(2)), axes=axes)
    with open_study(tmp_path / "s", study, [], Shard()):
        pass
    assert read_study(tmp_path / "s").trials() == study.trials()


def test_a_dash_and_words_in_lists_are_read_as_they_were_written(tmp_path):
    arm = Arm("mine", "spectral", settings=MappingProxyType({"lr": 1}), dash=[0, [3, 1]])
    task = Task("digits", "mlp", "a:b", NLL, also=[NLL], arms=["none", "mine"], dial=["size", 2])
    study = Study("s", [task], [Arm("none"), arm], "none")
    with open_study(tmp_path / "s", study, [], Shard()):
        pass
    again = read_study(tmp_path / "s")
    assert {*again.trials()} == {*study.trials()}
    assert again.arms[1].dash == (0, (3, 1))


def test_several_studies_stand_on_one_page_with_their_links(one_task):
    from wnrl.study.report import Findings, write_report

    root, study = one_task
    found = Findings("one", "none", root, rows_of(root, study), {"table": root / "table.csv"})
    page = root / "pages" / "both.html"
    page.parent.mkdir()
    write_report(page, found, replace(found, name="two"))
    text = page.read_text()
    assert "<h1>one</h1>" in text
    assert "<h1>two</h1>" in text
    assert text.count("<a href='../table.csv'>table.csv</a>") == 2
    assert "<a href='../CartPole-v1/ppo/none/seed0'>0</a>" in text


def test_a_page_says_how_many_tasks_arms_and_seeds_there_are(one_task):
    root, study = one_task
    assert "1 task, 2 arms, 3 seeds, 6 runs" in report(root, rows_of(root, study))
    assert "2 tasks, 3 arms, 3 seeds" in report(root, summary(root))
