import csv
import io
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from scripts import compare
from wnrl.errors import UsageError
from wnrl.study.plan import Job, Task
from wnrl.study.summary import Interval, Row

ROOT = Path(__file__).resolve().parents[2]
# Three tasks, two norms, one seed, and hardly any training.
SMALL = ["quick", "--budget", "0.02", "--seeds", "1", "--norms", "none", "weight"]
N_RUNS = 6


def command(folder, *words):
    return [sys.executable, str(ROOT / "scripts" / "compare.py"), *words, "--run-dir", str(folder)]


def call(folder, *words, cwd=None):
    return subprocess.run(
        command(folder, *words), capture_output=True, text=True, timeout=300, cwd=cwd
    )


def results(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")}


def stop_after(folder, n_results, sign):
    """Starts a study and sends it a signal once it has some results; its exit code and stderr."""
    study = subprocess.Popen(
        command(folder, *SMALL), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 200
    while len(results(folder)) < n_results and study.poll() is None:
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    study.send_signal(sign)
    _, stderr = study.communicate(timeout=30)
    return study.returncode, stderr


@pytest.fixture(scope="module")
def killed_and_resumed(tmp_path_factory):
    """A study that was killed after two runs and started again with the same words."""
    folder = tmp_path_factory.mktemp("compare") / "study"
    stop_after(folder, 2, signal.SIGKILL)
    before = results(folder)
    return folder, before, call(folder, *SMALL, cwd=folder.parent)


def test_killed_study_goes_on_and_ends_with_a_complete_table(killed_and_resumed):
    folder, before, resumed = killed_and_resumed
    assert resumed.returncode == 0, resumed.stderr
    assert 2 <= len(before) < N_RUNS
    assert len(results(folder)) == N_RUNS
    with (folder / "table.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert [(row["runs"], row["failed"]) for row in rows] == [("1", "0")] * N_RUNS


def test_each_task_has_its_learning_curves_as_a_picture(killed_and_resumed):
    folder, _, _ = killed_and_resumed
    tasks = {path.parents[2] for path in results(folder)}
    assert {path.parent for path in folder.rglob("curves.svg")} == tasks
    for task in tasks:
        assert ElementTree.parse(task / "curves.svg").getroot().tag.endswith("svg")


def test_killed_study_redoes_no_finished_run(killed_and_resumed):
    folder, before, _ = killed_and_resumed
    assert {path: results(folder)[path] for path in before} == before


def test_each_run_has_one_event_file_of_one_attempt(killed_and_resumed):
    folder, _, _ = killed_and_resumed
    for run in results(folder):
        assert len(list(run.parent.glob("events.out.tfevents.*"))) == 1


def test_first_line_is_the_folder_and_the_last_the_report(killed_and_resumed):
    folder, _, resumed = killed_and_resumed
    first, *_, last = resumed.stdout.splitlines()
    assert first == str(folder)
    assert last.split()[-1] == str(folder / "report.html")
    assert "<svg" in (folder / "report.html").read_text()


def test_finished_study_shows_its_table_again_at_once(killed_and_resumed):
    folder, _, _ = killed_and_resumed
    before = results(folder)
    again = call(folder, *SMALL)
    assert again.returncode == 0
    assert "CartPole-v1" in again.stdout
    assert results(folder) == before


def test_other_budget_in_the_same_folder_is_refused_and_loses_nothing(killed_and_resumed):
    folder, _, _ = killed_and_resumed
    before = results(folder)
    refused = call(folder, "quick", "--budget", "0.5")
    assert refused.returncode == 2
    assert "budget=0.02 (asked: 0.5)" in refused.stderr
    assert results(folder) == before


def test_interrupted_study_stops_its_workers_and_says_how_to_go_on(tmp_path):
    code, stderr = stop_after(tmp_path / "study", 1, signal.SIGINT)
    assert code == 130
    assert "the same command goes on from here" in stderr
    assert "Traceback" not in stderr
    before = results(tmp_path)
    time.sleep(3)
    assert results(tmp_path) == before
    assert len(before) < N_RUNS


def test_table_of_ordinary_numbers_fits_eighty_columns(tmp_path):
    task = compare.STUDIES["quick"][1]
    wide = Interval(-252.9, -385.9, -166.0)
    row = Row(task, "weight", {0: 1.0}, wide, wide, 0.0, 3526.0, {}, [])
    console = Console(width=80, file=io.StringIO())
    console.print(compare.as_table(task, [row]))
    assert "-252.9 [-385.9, -166.0] -252.9 [-385.9, -166.0]" in console.file.getvalue()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["quik"], "did you mean 'quick'"),
        (["quick", "--norms", "wieght"], "did you mean 'weight'"),
        (["quick", "--algos", "pppo"], "did you mean 'ppo'"),
        (["quick", "--seeds", "0"], "seeds must be above zero, got 0"),
        (["quick", "--workers", "-1"], "workers must be above zero, got -1"),
        (["quick", "--budget", "0"], "budget must be above zero, got 0"),
        (["quick", "--budget", "inf"], "budget must be finite, got inf"),
        (["quick", "--device", "gpu"], "device must be"),
        (["quick", "--seeds", "abc"], "Error parsing --seeds"),
        (["quick", "--norm", "weight"], "did you mean --norms?"),
        ([], "Which study"),
    ],
)
def test_wrong_word_is_one_line_and_leaves_nothing(tmp_path, words, message):
    refused = call(tmp_path / "study", *words)
    assert refused.returncode == 2
    assert message in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert not (tmp_path / "study").exists()


def test_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    refused = call(tmp_path / "file" / "study", "quick")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)


def test_more_seeds_later_add_runs_and_redo_none(tmp_path, monkeypatch):
    monkeypatch.setitem(compare.STUDIES, "quick", compare.STUDIES["quick"][2:])
    args = compare.Args("quick", tmp_path, seeds=1, norms=("none",), device="cpu", budget=0.02)
    compare.main(args)
    before = results(tmp_path)
    compare.main(replace(args, seeds=2))
    assert len(results(tmp_path)) == 2
    assert before.items() <= results(tmp_path).items()


def test_runs_of_a_study_that_has_changed_are_not_mixed_with_new_ones(tmp_path, monkeypatch):
    digits = compare.STUDIES["quick"][2]
    monkeypatch.setitem(compare.STUDIES, "quick", (digits,))
    args = compare.Args("quick", tmp_path, seeds=1, norms=("none",), device="cpu", budget=0.02)
    compare.main(args)
    before = results(tmp_path)
    changed = replace(digits, settings={**digits.settings, "learning_rate": 1.0})
    monkeypatch.setitem(compare.STUDIES, "quick", (changed,))
    with pytest.raises(UsageError, match=r"learning_rate=0.004 \(asked: 1.0\)"):
        compare.main(args)
    assert results(tmp_path) == before


def test_run_with_a_nan_is_failed_with_its_reason_and_the_rest_goes_on(
    tmp_path, monkeypatch, capsys
):
    cartpole, digits = compare.STUDIES["quick"][1:]
    diverging = replace(cartpole, settings={**cartpole.settings, "learning_rate": 1e30})
    monkeypatch.setitem(compare.STUDIES, "quick", (diverging, digits))
    args = compare.Args("quick", tmp_path, seeds=1, norms=("none",), device="cpu", budget=0.02)
    assert compare.main(args) == 0
    failed = json.loads((tmp_path / "CartPole-v1/ppo/none/seed0/result.json").read_text())
    assert failed["status"] == "failed"
    shown = capsys.readouterr().out
    assert f"seed 0: {failed['reason']}" in shown
    assert json.loads((tmp_path / "digits/mlp/none/seed0/result.json").read_text())["nll"] > 0


@pytest.mark.parametrize(
    ("task", "asked", "expected"),
    [
        (("CartPole-v1", "ppo", "agent"), "auto", "cpu"),
        (("CartPole-v1", "ppo", "agent"), "cuda", "cuda:0"),
        (("CartPolePixels-v1", "ppo", "agent"), "auto", "cuda:0"),
        (("digits", "mlp", "vae"), "auto", "cuda:0"),
    ],
)
def test_each_run_is_on_the_device_that_suits_its_network(
    tmp_path, monkeypatch, task, asked, expected
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    job = Job(Task(*task, compare.RETURN, ("none",), {}), "none", 0)
    assert compare.arguments(job, tmp_path, asked).device == expected


def test_a_word_for_an_algorithm_takes_all_its_tasks_and_a_label_one_of_them():
    labels = {
        algo: [task.label for task in compare._chosen("agents", (algo,))]
        for algo in ("crossq", "crossq-target")
    }
    assert labels == {"crossq": ["crossq", "crossq-target"], "crossq-target": ["crossq-target"]}
