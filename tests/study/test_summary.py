import base64
import csv
import io

import pytest

from wnrl.runs import write_json
from wnrl.study.plan import BEST_RETURN, NLL, RETURN, Task, plan
from wnrl.study.report import write_report
from wnrl.study.summary import COLUMNS, cells, summarise, to_csv

CARTPOLE = Task("CartPole-v1", "ppo", "agent", RETURN, ("none", "weight"))
DIGITS = Task("digits", "mlp", "vae", NLL, ("none", "layer"))
JOBS = plan([CARTPOLE, DIGITS], 3)


def finish(root, job, score, **more):
    metric = job.task.metric
    folder = root / job.folder
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
    for job in JOBS:
        gain = 0.0 if job.norm == "none" else 10.0
        sign = 1 if job.task.metric.higher_is_better else -1
        finish(tmp_path, job, 100.0 * (job.seed + 1) + sign * gain)
    return tmp_path


def row(rows, task, norm):
    return next(row for row in rows if row.task == task and row.norm == norm)


def test_differences_are_paired_by_seed(root):
    difference = row(summarise(root, JOBS, {}), CARTPOLE, "weight").difference
    assert (difference.value, difference.low, difference.high) == (10.0, 10.0, 10.0)


def test_plain_network_is_not_compared_with_itself(root):
    plain = row(summarise(root, JOBS, {}), CARTPOLE, "none")
    assert plain.difference is None
    assert plain.better is None


def test_further_numbers_of_the_same_runs_have_rows_of_their_own(tmp_path):
    task = Task("CartPole-v1", "dqn", "agent", RETURN, ("none", "weight"), also=(BEST_RETURN,))
    jobs = plan([task], 2)
    for job in jobs:
        finish(tmp_path, job, 100.0, best_return=400.0 + (job.norm == "weight"))
    rows = summarise(tmp_path, jobs, {})
    table = [(r.task.metric.key, r.norm, r.score.value) for r in rows]
    assert table == [
        ("final_return", "none", 100.0),
        ("final_return", "weight", 100.0),
        ("best_return", "none", 400.0),
        ("best_return", "weight", 401.0),
    ]


def test_lower_is_better_for_likelihoods(root):
    rows = summarise(root, JOBS, {})
    # 3 pairs are better by the gain, 3 by another seed's score, of 9.
    assert row(rows, DIGITS, "layer").better == pytest.approx(6 / 9)
    assert row(rows, CARTPOLE, "weight").better == pytest.approx(6 / 9)


def test_run_without_a_result_is_not_read_and_its_reason_is_kept(root):
    crashed = next(j for j in JOBS if j.task == CARTPOLE and j.norm == "weight" and j.seed == 1)
    (root / crashed.folder / "result.json").unlink()
    found = row(summarise(root, JOBS, {crashed: "killed"}), CARTPOLE, "weight")
    assert found.scores.keys() == {0, 2}
    assert found.failures == ["seed 1: killed"]


def test_failed_run_counts_as_failed_with_its_reason(root):
    failed = next(j for j in JOBS if j.task == DIGITS and j.norm == "layer" and j.seed == 2)
    write_json(root / failed.folder / "result.json", {"status": "failed", "reason": "loss is nan"})
    found = row(summarise(root, JOBS, {}), DIGITS, "layer")
    assert found.failures == ["seed 2: loss is nan"]
    assert len(found.scores) == 2


def test_norm_whose_runs_all_failed_still_has_its_row(root):
    for job in JOBS:
        if job.norm == "weight":
            write_json(root / job.folder / "result.json", {"status": "failed", "reason": "nan"})
    found = row(summarise(root, JOBS, {}), CARTPOLE, "weight")
    assert found.score is None
    assert cells(found)[COLUMNS.index("failed")] == "3/3"


def test_failed_run_is_worse_than_any(root):
    for job in JOBS:
        if job.task == CARTPOLE and job.norm == "weight" and job.seed != 2:
            write_json(root / job.folder / "result.json", {"status": "failed", "reason": "nan"})
    # The run that is left is better than all three plain ones; the two failed ones are not.
    assert row(summarise(root, JOBS, {}), CARTPOLE, "weight").better == pytest.approx(3 / 9)


def test_damaged_result_costs_its_own_run_only(root):
    damaged = next(job for job in JOBS if job.task == DIGITS and job.norm == "layer")
    (root / damaged.folder / "result.json").write_text('{"status": "fin')
    found = row(summarise(root, JOBS, {}), DIGITS, "layer")
    assert len(found.scores) == 2
    assert "is damaged" in found.failures[0]


def test_single_run_has_no_interval(root):
    only = row(summarise(root, [job for job in JOBS if job.seed == 0], {}), CARTPOLE, "weight")
    assert (only.score.value, only.score.low, only.score.high) == (110.0, None, None)
    assert str(only.score) == "110.00"


def test_report_names_all_versions_that_runs_were_made_with(root):
    for job, version in zip(JOBS, ("2.12", "2.13", "2.13"), strict=False):
        write_json(root / job.folder / "versions.json", {"torch": version})
    write_report(root / "report.html", "quick", summarise(root, JOBS, {}), JOBS, {})
    assert "torch: <code>2.12 and 2.13</code>" in (root / "report.html").read_text()


def test_csv_has_a_line_a_row_and_full_precision(root):
    lines = list(csv.DictReader(io.StringIO(to_csv(summarise(root, JOBS, {})))))
    assert len(lines) == 4
    weight = next(line for line in lines if line["norm"] == "weight")
    assert float(weight["minus_none"]) == 10.0
    assert float(weight["iqm"]) == 210.0


def test_report_holds_every_task_norm_and_failure_and_nothing_from_outside(root):
    failed = JOBS[-1]
    reason = "loss is <nan> & gone"
    write_json(root / failed.folder / "result.json", {"status": "failed", "reason": reason})
    write_report(root / "report.html", "quick", summarise(root, JOBS, {}), JOBS, {"device": "cpu"})
    page = (root / "report.html").read_text()
    for text in ("ppo · CartPole-v1", "mlp · digits", "layer", "&lt;nan&gt; &amp; gone"):
        assert text in page
    assert page.count("<svg") == 4
    for outside in ("<script", 'src="http', "src='http", "@import", "<link"):
        assert outside not in page


def test_report_shows_the_samples_of_seed_zero_beside_their_norm(root):
    for job in JOBS:
        if job.task == DIGITS:
            (root / job.folder / "samples.png").write_bytes(f"{job.norm} {job.seed}".encode())
    write_report(root / "report.html", "quick", summarise(root, JOBS, {}), JOBS, {})
    figures = (root / "report.html").read_text().split("<figure>")[1:]
    assert len(figures) == 2
    for norm, figure in zip(("none", "layer"), figures, strict=True):
        assert f"<b>{norm}</b>" in figure
        assert f"base64,{base64.b64encode(f'{norm} 0'.encode()).decode()}'" in figure


def test_report_of_the_same_runs_is_the_same_page(root):
    rows = summarise(root, JOBS, {})
    for name in ("a.html", "b.html"):
        write_report(root / name, "quick", rows, JOBS, {})
    assert (root / "a.html").read_text() == (root / "b.html").read_text()


def test_report_is_made_even_where_no_run_has_a_score(tmp_path):
    rows = summarise(tmp_path, JOBS, {})
    write_report(tmp_path / "report.html", "quick", rows, JOBS, {})
    assert "seed 0: unfinished" in (tmp_path / "report.html").read_text()
