import base64
import csv
import io
import math
from dataclasses import replace

import pytest
from scipy import stats

from wnrl.norms import NORMS, Norm
from wnrl.runs import write_json
from wnrl.runs.folder import note_crash
from wnrl.study.figures import mean_curve
from wnrl.study.plan import BEST_RETURN, NLL, RETURN, Arm, Study, Task
from wnrl.study.report import Findings, write_report
from wnrl.study.summary import summarise
from wnrl.study.table import cells, to_csv

CARTPOLE = Task("CartPole-v1", "ppo", "a:b", RETURN, arms=("none", "weight"))
DIGITS = Task("digits", "mlp", "a:b", NLL, arms=("none", "layer"))
STUDY = Study("quick", [CARTPOLE, DIGITS], [Arm(n) for n in ("none", "weight", "layer")], "none")
TRIALS = STUDY.trials()


def summary(root, trials=TRIALS, baseline="none"):
    return summarise(root, trials, baseline)


def report(root, rows=None, name="report.html", baseline="none", **notes):
    rows = summary(root) if rows is None else rows
    write_report(root / name, Findings("quick", baseline, root, rows, notes))
    return (root / name).read_text()


def one(task=CARTPOLE, name="weight", seed=1):
    return next(t for t in TRIALS if (t.task, t.arm.name, t.seed) == (task, name, seed))


def finish(root, trial, score, **more):
    metric = trial.task.metric
    folder = root / trial.folder
    folder.mkdir(parents=True)
    curve = {"steps": [10, 20], metric.curve: [score / 2, score]}
    write_json(
        folder / "result.json",
        {"status": "finished", metric.key: score, "steps_per_second": 100.0, "curve": curve,
         "plain_parts": [], **more},
    )  # fmt: skip


@pytest.fixture
def root(tmp_path):
    """A study whose `weight` runs are 10 better than `none` at each seed, in either direction."""
    for trial in TRIALS:
        gain = 0.0 if trial.arm.name == "none" else 10.0
        sign = 1 if trial.task.metric.higher_is_better else -1
        finish(tmp_path, trial, 100.0 * (trial.seed + 1) + sign * gain)
    return tmp_path


def row(rows, task, norm):
    return next(row for row in rows if row.task == task and row.arm.name == norm)


def test_differences_are_paired_by_seed(root):
    difference = row(summary(root), CARTPOLE, "weight").difference
    assert (difference.value, difference.low, difference.high) == (10.0, 10.0, 10.0)
    assert difference.confidence is None  # three pairs have a range


def test_plain_network_is_not_compared_with_itself(root):
    plain = row(summary(root), CARTPOLE, "none")
    assert plain.difference is None
    assert plain.better is None


def test_further_numbers_of_the_same_runs_have_rows_of_their_own(tmp_path):
    task = Task("CartPole-v1", "dqn", "a:b", RETURN, also=(BEST_RETURN,))
    trials = Study("s", [task], [Arm("none"), Arm("weight")], "none", seeds=[0, 1]).trials()
    for trial in trials:
        finish(tmp_path, trial, 100.0, best_return=400.0 + (trial.arm.name == "weight"))
    rows = summary(tmp_path, trials)
    table = [(r.task.metric.key, r.arm.name, r.score.value) for r in rows]
    assert table == [
        ("window_return", "none", 100.0),
        ("window_return", "weight", 100.0),
        ("best_return", "none", 400.0),
        ("best_return", "weight", 401.0),
    ]


def test_lower_is_better_for_likelihoods(root):
    rows = summary(root)
    assert row(rows, DIGITS, "layer").better.value == 100.0
    assert row(rows, CARTPOLE, "weight").better.value == 100.0


def test_run_without_a_result_is_not_read_and_its_reason_is_kept(root):
    crashed = one()
    (root / crashed.folder / "result.json").unlink()
    note_crash(root / crashed.folder, "killed")
    note_crash(root / crashed.folder, "killed\x1b again")
    found = row(summary(root), CARTPOLE, "weight")
    assert found.scores.keys() == {0, 2}
    assert found.failures == [r"seed 1: killed\x1b again"]


def test_a_run_that_has_a_result_at_last_is_not_failed(root):
    note_crash(root / one().folder, "killed")
    found = row(summary(root), CARTPOLE, "weight")
    assert found.scores.keys() == {0, 1, 2}
    assert found.failures == []


def test_unfinished_run_is_missing_and_its_pair_with_it(root):
    (root / one().folder / "result.json").unlink()
    found = row(summary(root), CARTPOLE, "weight")
    assert found.runs.missing == {1: "unfinished"}
    assert len(found.differences.values) == 2
    assert cells(found)["failed"] == "0/2"


def test_failed_run_counts_as_failed_with_its_reason(root):
    failed = one(DIGITS, "layer", 2)
    write_json(root / failed.folder / "result.json", {"status": "failed", "reason": "loss is nan"})
    found = row(summary(root), DIGITS, "layer")
    assert found.failures == ["seed 2: loss is nan"]
    assert len(found.scores) == 2


def fail(root, trial):
    write_json(root / trial.folder / "result.json", {"status": "failed", "reason": "nan"})


def test_norm_whose_runs_all_failed_still_has_its_row(root):
    for trial in TRIALS:
        if trial.arm.name == "weight":
            fail(root, trial)
    found = row(summary(root), CARTPOLE, "weight")
    assert (found.score.low, found.score.value) == (-math.inf, 100.0)
    assert cells(found)["failed"] == "3/3"


def test_failed_run_is_worse_than_any(root):
    fail(root, one(name="weight", seed=0))
    fail(root, one(name="weight", seed=1))
    fail(root, one(name="none", seed=1))
    # Of three pairs one is better, one worse, and in one both failed.
    better = row(summary(root), CARTPOLE, "weight").better
    assert better.value == pytest.approx(50.0)


MANY = range(10)


def finished_study(root, task, scores, names=("none", "weight")):
    """Rows of arms with these scores, one a seed; None is a run that failed."""
    trials = Study("s", [task], [Arm(n) for n in names], "none", seeds=MANY).trials()
    for trial in trials:
        score = scores[trial.arm.name][trial.seed]
        finish(root, trial, 0.0 if score is None else score)
        if score is None:
            fail(root, trial)
    return summarise(root, trials, "none")


HIGH = replace(CARTPOLE, arms=(), floor=20.0, solved=475.0)


def test_failed_runs_count_as_the_floor_in_means(tmp_path):
    # 480 and two failures against 300 everywhere, which a mean of what finished would call better.
    weight = [480.0 + seed for seed in range(8)] + [None] * 2
    rows = finished_study(tmp_path, HIGH, {"none": [300.0 + s for s in MANY], "weight": weight})
    assert row(rows, HIGH, "weight").score.value == pytest.approx((8 * 483.5 + 2 * 20) / 10)
    assert row(rows, HIGH, "weight").verdict.word == "undecided"


def test_failed_runs_count_as_the_worst_run_where_that_is_below_the_floor(tmp_path):
    scores = {"none": [9.0, *[300.0 + s for s in range(9)]], "weight": [400.0] * 9 + [None]}
    rows = finished_study(tmp_path, HIGH, scores)
    assert row(rows, HIGH, "weight").score.value == pytest.approx((9 * 400 + 9) / 10)


@pytest.mark.parametrize("task", [CARTPOLE, DIGITS])
def test_an_arm_that_fails_is_never_better_where_the_task_names_no_floor(tmp_path, task):
    task = replace(task, arms=())
    gain = 100.0 if task.metric.higher_is_better else -100.0
    weight = [gain + 0.1 * seed for seed in range(9)]
    scores = {"none": [0.1 * seed for seed in MANY], "weight": [*weight, None]}
    found = row(finished_study(tmp_path, task, scores), task, "weight")
    assert found.verdict.word == "undecided"
    open_end = found.difference.low if gain > 0 else -found.difference.high
    assert open_end == -math.inf
    assert found.better.value == 90.0


def test_share_of_solved_runs_counts_failed_ones_as_unsolved(tmp_path):
    scores = {"none": [475.0] * 10, "weight": [474.0, *[500.0] * 7, None, None]}
    rows = finished_study(tmp_path, HIGH, scores)
    assert [row(rows, HIGH, name).solved.value for name in ("none", "weight")] == [100.0, 70.0]
    expected = stats.binomtest(7, 10).proportion_ci(0.95, "exact")
    solved = row(rows, HIGH, "weight").solved
    assert (solved.low, solved.high) == pytest.approx((100 * expected.low, 100 * expected.high))


def test_a_verdict_is_in_the_same_words_everywhere(tmp_path):
    scores = {"none": [300.0 + s for s in MANY], "weight": [400.0 + s + s % 3 for s in MANY]}
    rows = finished_study(tmp_path, HIGH, scores)
    verdict = row(rows, HIGH, "weight").verdict
    assert verdict.sentence == (
        "better than none: return minus that of none is 100.90 [100.27, 101.56] in 10 pairs of runs"
    )
    lines = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert [line["verdict"] for line in lines] == ["", "better"]
    assert lines[1]["sentence"] == verdict.sentence
    page = report(tmp_path, rows)
    sentence = f"{HIGH.title}: weight {verdict.sentence}"
    assert page.index(sentence) < page.index("<table>")


def test_verdicts_of_a_study_hold_together(tmp_path):
    names = ("none", "weight", "batch", "layer")
    noise = [math.sin(7.0 * s) for s in MANY]
    scores = {name: [k * x + 0.65 * k for x in noise] for k, name in enumerate(names)}
    alone = finished_study(tmp_path / "alone", HIGH, scores, names[:2])
    assert row(alone, HIGH, "weight").difference.confidence == pytest.approx(0.95)
    together = finished_study(tmp_path / "together", HIGH, scores, names)
    confidence = [row(together, HIGH, name).difference.confidence for name in names[1:]]
    assert confidence == pytest.approx([1 - 0.05 / 3] * 3)


def test_further_numbers_get_an_interval_of_their_own_and_no_verdict(tmp_path):
    task = replace(HIGH, also=(BEST_RETURN,))
    trials = Study("s", [task], [Arm("none"), Arm("weight")], "none", seeds=MANY).trials()
    for trial in trials:
        score = (100.0 + trial.seed) * (trial.arm.name == "weight")
        finish(tmp_path, trial, score, best_return=score)
    _, first, _, further = summary(tmp_path, trials)
    assert (first.verdict.word, further.verdict) == ("better", None)
    assert further.difference.confidence == 0.95


def test_single_run_has_no_interval(root):
    only = row(summary(root, [trial for trial in TRIALS if trial.seed == 0]), CARTPOLE, "weight")
    assert only.score.confidence is None
    assert str(only.score) == "110.00"


def test_report_names_all_versions_that_runs_were_made_with(root):
    for trial, version in zip(TRIALS, ("2.12", "2.13", "2.13"), strict=False):
        write_json(root / trial.folder / "versions.json", {"torch": version})
    assert "torch: <code>2.12 and 2.13</code>" in report(root)


def test_csv_has_a_line_a_row_and_full_precision(root):
    lines = list(csv.DictReader(io.StringIO(to_csv(summary(root)))))
    assert len(lines) == 4
    weight = next(line for line in lines if line["arm"] == "weight")
    assert float(weight["minus_baseline"]) == 10.0
    assert float(weight["mean"]) == 210.0
    assert (weight["mean_low"], weight["lowest"], weight["highest"]) == ("", "110.0", "310.0")


def test_report_holds_every_task_norm_and_failure_and_nothing_from_outside(root):
    failed = TRIALS[-1]
    reason = "loss is <nan> & gone"
    write_json(root / failed.folder / "result.json", {"status": "failed", "reason": reason})
    page = report(root, device="cpu")
    for text in ("ppo · CartPole-v1", "mlp · digits", "layer", "&lt;nan&gt; &amp; gone"):
        assert text in page
    assert page.count("<svg") == 5  # differences, and two a task
    for outside in ("<script", 'src="http', "src='http", "@import", "<link"):
        assert outside not in page


def test_report_shows_the_samples_of_seed_zero_beside_their_norm(root):
    for trial in TRIALS:
        if trial.task == DIGITS:
            (root / trial.folder / "samples.png").write_bytes(
                f"{trial.arm.name} {trial.seed}".encode()
            )
    figures = report(root).split("<figure>")[1:]
    assert len(figures) == 2
    for norm, figure in zip(("none", "layer"), figures, strict=True):
        assert f"<b>{norm}</b>" in figure
        assert f"base64,{base64.b64encode(f'{norm} 0'.encode()).decode()}'" in figure


def test_report_never_holds_what_a_link_points_to(root):
    secret = root / "secret.txt"
    secret.write_bytes(b"a private key")
    (root / one(DIGITS, "layer", 0).folder / "samples.png").symlink_to(secret)
    assert base64.b64encode(b"a private key").decode() not in report(root)


def test_report_of_the_same_runs_is_the_same_page(root):
    rows = summary(root)
    assert report(root, rows, name="a.html") == report(root, rows, name="b.html")


def test_report_is_made_even_where_no_run_has_a_score(tmp_path):
    assert "seed 0: unfinished" in report(tmp_path)


DAMAGED = {
    "empty": "",
    "cut off": '{"status": "fin',
    "no object": "[]",
    "nothing in it": "{}",
    "failed without reason": {"status": "failed"},
    "unknown status": {"status": "done"},
    "no score": {"status": "finished"},
    "text as score": {"status": "finished", "window_return": "high"},
    "true as score": {"status": "finished", "window_return": True},
    "NaN as score": '{"status": "finished", "window_return": NaN}',
    "no number as large": f'{{"status": "finished", "window_return": 1{"0" * 400}}}',
    "in a batch of none": {
        "status": "finished", "window_return": 1.0, "wall_time": 1.0, "batch_members": 0,
    },
    "text as speed": {"status": "finished", "window_return": 1.0, "steps_per_second": "fast"},
    "text as curve": {"status": "finished", "window_return": 1.0, "curve": "steep"},
    "curve without steps": {
        "status": "finished", "window_return": 1.0, "curve": {RETURN.curve: [1.0]},
    },
    "text in a curve": {
        "status": "finished", "window_return": 1.0, "curve": {"steps": [1], RETURN.curve: ["a"]},
    },
    "number as plain parts": {"status": "finished", "window_return": 1.0, "plain_parts": 3},
}  # fmt: skip


def test_a_finished_run_without_a_score_counts_as_failed(root):
    """A runner of one's own may say None or, as JSON should not, NaN."""
    write_json(root / one().folder / "result.json", {"status": "finished", "window_return": None})
    spoilt = row(summary(root), CARTPOLE, "weight")
    assert spoilt.failures == ["seed 1: its score is None"]
    assert spoilt.runs.failed.keys() == {1}
    assert cells(spoilt)["failed"] == "1/3"


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_result_costs_its_own_run_and_says_why(root, kind):
    content, path = DAMAGED[kind], root / one().folder / "result.json"
    if isinstance(content, dict):
        write_json(path, content)
    else:
        path.write_text(content)
    rows = summary(root)
    spoilt = row(rows, CARTPOLE, "weight")
    assert spoilt.scores.keys() == {0, 2}
    assert len(spoilt.failures) == 1
    assert "is damaged" in spoilt.failures[0] or "says no reason" in spoilt.failures[0]
    assert len(row(rows, CARTPOLE, "none").scores) == 3
    shown = [*cells(spoilt).values(), to_csv(rows).replace(spoilt.failures[0], "")]
    assert "nan" not in " ".join(shown).lower()
    assert "nan" not in report(root, rows).replace(spoilt.failures[0], "")


def test_a_result_of_a_score_alone_is_enough(root):
    path = root / one().folder / "result.json"
    write_json(path, {"status": "finished", "window_return": 7})
    assert row(summary(root), CARTPOLE, "weight").scores[1] == 7.0
    report(root)


def test_control_characters_of_a_message_reach_no_table_and_no_page(root):
    reason = "\x1b[2J\x1b]0;gone\x07 \u202etxet"
    write_json(root / one().folder / "result.json", {"status": "failed", "reason": reason})
    rows = summary(root)
    page = report(root, rows, note="a \x1b in a note")
    for text in (*row(rows, CARTPOLE, "weight").failures, to_csv(rows), page):
        assert not any(c in text for c in "\x1b\x07\u202e")
    assert r"\x1b[2J" in page


def test_damaged_versions_cost_the_report_nothing_else(root):
    (root / one().folder / "versions.json").write_text("{")
    assert "<h1>wnrl study: quick</h1>" in report(root)


def test_the_baseline_is_an_arm_that_the_study_names(root):
    rows = summary(root, baseline="weight")
    assert row(rows, CARTPOLE, "none").difference.value == -10.0
    assert row(rows, CARTPOLE, "weight").difference is None
    assert row(rows, DIGITS, "none").difference is None  # which has no arm of that name
    assert "minus weight" in cells(rows[0])
    assert {line["baseline"] for line in csv.DictReader(io.StringIO(to_csv(rows)))} == {"weight"}


def test_arms_are_compared_at_the_same_point_of_the_axes(tmp_path):
    task = Task("CartPole-v1", "ppo", "a:b", RETURN)
    study = Study("s", [task], [Arm("none"), Arm("weight")], "none",
                  axes={"learning_rate": (0.1, 0.2)})  # fmt: skip
    trials = study.trials()
    for trial in trials:
        rate = trial.settings["learning_rate"]
        finish(tmp_path, trial, 1000 * rate + (rate if trial.arm.name == "weight" else 0.0))
    rows = summary(tmp_path, trials)
    differences = {r.name: r.difference.value for r in rows if r.difference}
    assert differences == {
        "weight, learning_rate=0.1": pytest.approx(0.1),
        "weight, learning_rate=0.2": pytest.approx(0.2),
    }
    lines = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert [line["learning_rate"] for line in lines] == ["0.1", "0.1", "0.2", "0.2"]
    assert "weight, learning_rate=0.2" in report(tmp_path, rows)


def test_no_interval_goes_beyond_what_a_task_can_give(tmp_path):
    """Nine runs of 500 and one of 0: Student's t alone would say a mean of up to 563."""
    task = Task("CartPole-v1", "ppo", "a:b", RETURN, limits=[0.0, 500.0])
    free = replace(task, limits=None)
    for view in (task, free):
        study = Study("s", [view], [Arm("none"), Arm("weight")], "none", seeds=range(10))
        root = tmp_path / str(view.limits)
        for trial in study.trials():
            plain = trial.arm.name == "none"
            finish(root, trial, 500.0 * ((trial.seed > 0) if plain else trial.seed < 1))
        plain, weight = summary(root, study.trials())
        assert (plain.score.high == 500.0) == (view is task)
        assert (weight.difference.low == -500.0) == (view is task)
        highest = mean_curve(plain)[3]
        assert (highest.max() <= 500.0) == (view is task)


def test_page_and_figures_take_colour_dash_and_meaning_from_the_arm(tmp_path, monkeypatch):
    monkeypatch.setitem(NORMS, "mine", Norm("my own norm", colour="#abcdef"))
    arms = [Arm("mine"), Arm("heads", "mine", settings={"norm_heads": False}, colour="#fedcba")]
    study = Study("s", [Task("CartPole-v1", "ppo", "a:b", RETURN)], arms, "mine")
    for trial in study.trials():
        finish(tmp_path, trial, 1.0 + trial.seed)
    page = report(tmp_path, summary(tmp_path, study.trials(), baseline="mine"), baseline="mine")
    for text in ("my own norm; norm_heads=False", "color:#fedcba", "stroke: #abcdef"):
        assert text in page
