import csv
import io
import json
import re
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console

from scripts import _cli, compare
from scripts._lists import studies
from scripts._progress import as_table
from tests.tables import restored
from wnrl.runs import write_json
from wnrl.study.execute import runner, study_of
from wnrl.study.outcomes import Outcome, Runs
from wnrl.study.plan import RETURN, Arm, Task
from wnrl.study.stats import Estimate, Sample
from wnrl.study.summary import Row

ROOT = Path(__file__).resolve().parents[2]
# Three tasks, two norms, one seed, and hardly any training.
STUDY = str(Path(__file__).with_name("small_study.py"))
SMALL = [STUDY, "--budget", "0.02", "--seeds", "1", "--norms", "none", "weight", "--workers", "1"]
N_RUNS = 6
RAY = ["--executor", "ray"]


def command(folder, *words):
    return [str(ROOT / "scripts" / "compare.py"), *words, "--run-dir", str(folder)]


def start(folder, *words):
    """The program in a process of its own."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *command(folder, *words)], **pipes)


def call(folder, *words):
    """The program in this process, which it leaves as it was: its exit code, stdout and stderr."""
    out, err, path = io.StringIO(), io.StringIO(), list(sys.path)
    with pytest.MonkeyPatch.context() as patch, restored():
        patch.setattr(sys, "argv", command(folder, *words))
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as left:
            _cli.run(compare.main, compare.Args)
    sys.path[:] = path
    sys.modules.pop("own_study", None)
    return subprocess.CompletedProcess(words, left.value.code, out.getvalue(), err.getvalue())


def results(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")}


def stop(study, number, condition):
    """Sends the program a signal once something holds; its exit code and stderr."""
    deadline = time.monotonic() + 200
    while not condition() and study.poll() is None:
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    study.send_signal(number)
    _, stderr = study.communicate(timeout=30)
    return study.returncode, stderr


@pytest.fixture(scope="module")
def killed_and_resumed(tmp_path_factory):
    """A study that was killed after two runs and started again with the same words."""
    folder = tmp_path_factory.mktemp("compare") / "study"
    stop(start(folder, *SMALL), signal.SIGKILL, lambda: len(results(folder)) >= 2)
    before = results(folder)
    return folder, before, call(folder, *SMALL)


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
    refused = call(folder, STUDY, "--budget", "0.5")
    assert refused.returncode == 2
    assert "budget=0.02 (asked: 0.5)" in refused.stderr
    assert results(folder) == before


def test_a_stopped_study_has_checkpoints_of_its_runs_and_stops_its_workers(tmp_path):
    words = [STUDY, "--algos", "ppo", "--norms", "none", "weight", "--workers", "2"]
    study = start(tmp_path / "study", *words)
    curves = "seed0/events.out.tfevents.*"  # which begin with the first rollout
    code, stderr = stop(study, signal.SIGTERM, lambda: len(list(tmp_path.rglob(curves))) == 2)
    assert code == 143
    assert "the same command goes on from here" in stderr
    assert "Traceback" not in stderr
    assert {path.parent.parent.name for path in tmp_path.rglob("checkpoint.zip")} == {
        "none", "weight",
    }  # fmt: skip


def test_table_of_ordinary_numbers_fits_eighty_columns():
    task = Task("CartPoleNoVel-v1", "recurrent_ppo", "a:b", RETURN)
    wide = Sample(np.linspace(-450.0, -55.0, 10))
    outcomes = {
        seed: Outcome({RETURN.key: -250.0}, {}, {"steps_per_second": 3526.0}, {}, ())
        for seed in range(10)
    }
    better = Estimate(0.0, 0.0, 31.0)
    row = Row(task, Arm("weight"), (), "none", Runs(outcomes), wide, wide, better, better)
    console = Console(width=80, file=io.StringIO())
    console.print(as_table(task, [row]))
    line = console.file.getvalue().splitlines()[-1]
    assert line.split("  ")[0].startswith("weight -252 [-348, -157] -252 [-348, -157]")
    assert line.rstrip().endswith("3,526   0/10")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["quik"], "did you mean 'quick'"),
        (["quick", "--norms", "weight", "--device", "cuda:x"], "device must be"),
        (["quick", "--norms", "wieght"], "did you mean 'weight'"),
        (["quick", "--norms"], "norms must be one or more different values, got ()"),
        (["quick", "--norms", "none", "none"], "different values, got ('none', 'none')"),
        (["quick", "--algos"], "algos must be one or more different values, got ()"),
        (["quick", "--algos", "pppo"], "did you mean 'ppo'"),
        (["quick", "--seeds", "0"], "seeds must be above zero, got 0"),
        (["quick", "--workers", "-1"], "workers must be above zero, got -1"),
        (["quick", "--budget", "0"], "budget must be above zero, got 0"),
        (["quick", "--budget", "inf"], "budget must be finite, got inf"),
        (["quick", "--device", "gpu"], "device must be"),
        (["quick", "--seeds", "abc"], "Error parsing --seeds"),
        (["quick", "--norm", "weight"], "did you mean --norms?"),
        (["quick", "--shard", "3/2"], "with i from 1 to n, such as 1/4, got '3/2'"),
        ([], f"study must be one of {', '.join(dict(studies()))}, <path>.py, got ''"),
        (["quick", "--executor", "slurm"], "invalid choice 'slurm'"),
        (["quick", "--address", "auto"], "address is for --executor ray"),
        (["quick", *RAY, "--address", "auto", "--workers", "2"], "without --workers"),
        (["quick", *RAY, "--address", "ray://a:1"], "must be host:port of the head, or auto"),
        (["quick", *RAY, "--address", "127.0.0.1:1"], "address '127.0.0.1:1': no cluster there"),
        (["quick", "--time-limit", "soon"], "time such as 90m, 2h or 7200, got 'soon'"),
        (["quick", "--time-limit", "0h"], "time such as 90m, 2h or 7200, got '0h'"),
        (["nothing.py"], "nothing.py is no Python file with a STUDY"),
    ],
)
def test_wrong_word_is_one_line_and_leaves_nothing(tmp_path, words, message):
    refused = call(tmp_path / "study", *words)
    assert refused.returncode == 2
    assert message in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert not (tmp_path / "study").exists()


def test_without_ray_its_executor_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    refused = call(tmp_path / "study", "quick", "--executor", "ray")
    assert refused.returncode == 2
    assert refused.stderr == (
        "error: executor ray needs ray, which is missing: pip install 'wnrl[ray]'\n"
    )
    assert not (tmp_path / "study").exists()


# A study of a user's own, with a norm, a runner and arms of its own.
OWN = """
import time
from pathlib import Path

import wnrl
from wnrl.errors import UsageError
from wnrl.norms import Norm
from wnrl.runs import open_run
from wnrl.study import RETURN, Arm, Study, Task

wnrl.NORMS["mine"] = Norm("my own norm", colour="#abcdef")


def settings(trial):
    if trial.task.name == "nowhere" or not trial.settings["rate"] > 0:
        raise UsageError(f"no {trial.task.name} at rate {trial.settings['rate']}")
    return {"norm": trial.arm.norm, "seed": trial.seed, **trial.settings}


def train(trial, folder, progress):
    assert trial.arm.norm in wnrl.NORMS
    time.sleep(trial.settings.get("seconds", 0))
    with open_run(folder, settings(trial)) as run:
        score = trial.seed + 10.0 * (trial.arm.norm == "mine") + trial.settings["rate"]
        result = {"status": "finished", "window_return": score}
        if trial.settings.get("fail") == trial.arm.name:
            result = {"status": "failed", "reason": "NaN\\x1b[31m"}
        run.write_result(result)
    return result


STUDY = Study(
    "own",
    [Task("task", "algo", "own_study:train", RETURN, {"rate": 1})],
    [Arm("plain", "none"), Arm("mine"), Arm("mine_slow", "mine", settings={"slow": True})],
    baseline="plain",
)
"""


def own_study(tmp_path, **changes):
    """The words that start it in ``tmp_path``; a change is a Python expression for its argument."""
    text = OWN
    for name, value in changes.items():
        text += f"\nSTUDY = __import__('dataclasses').replace(STUDY, {name}={value})\n"
    (tmp_path / "own_study.py").write_text(text)
    return [str(tmp_path / "own_study.py")]


def test_a_study_file_from_outside_brings_its_own_norm_runner_arms_and_axes(tmp_path):
    words = own_study(tmp_path, axes="{'rate': (0.5, 2.0)}", seeds="[3, 4]")
    shown = call(tmp_path / "study", *words)
    assert shown.returncode == 0, shown.stderr
    assert len(results(tmp_path)) == 12
    assert (tmp_path / "study/task/algo/mine_slow/rate=0.5/seed3/result.json").exists()
    with (tmp_path / "study" / "table.csv").open() as table:
        mine = [row for row in csv.DictReader(table) if row["arm"] == "mine"]
    assert [(row["rate"], row["minus_baseline"]) for row in mine] == [
        ("0.5", "10.0"),
        ("2.0", "10.0"),
    ]
    page = (tmp_path / "study" / "report.html").read_text()
    assert "my own norm; slow=True" in page
    assert "color:#abcdef" in page
    assert "minus plain" in shown.stdout


def test_no_cell_of_a_table_is_cut(tmp_path):
    name = "an_arm_with_a_name_" + "long_" * 8
    arms = f"[*STUDY.arms, Arm('{name}', 'mine')]"
    shown = call(tmp_path / "study", *own_study(tmp_path, arms=arms), "--seeds", "1")
    assert (shown.returncode, "…" in shown.stdout) == (0, False)
    assert any(line.startswith(name) for line in shown.stdout.splitlines())


def test_labels_that_look_like_markup_are_shown_as_they_are(tmp_path):
    metric = "__import__('dataclasses').replace(RETURN, label='events [/s] in [m/s]')"
    tasks = f"[Task('task', 'algo', 'own_study:train', {metric}, {{'rate': 1}})]"
    shown = call(tmp_path / "study", *own_study(tmp_path, tasks=tasks), "--seeds", "1")
    assert shown.returncode == 0, shown.stderr
    assert "algo · task: events [/s] in [m/s], higher is better" in shown.stdout


def test_a_study_keeps_its_own_seeds_and_device(tmp_path):
    words = own_study(tmp_path, seeds="range(100, 103)")
    assert call(tmp_path / "study", *words, "--seeds", "4", "--norms", "plain").returncode == 0
    assert {path.parent.name for path in results(tmp_path)} == {f"seed{k}" for k in range(100, 104)}
    asked = own_study(tmp_path, settings="{'device': 'cuda:x'}")
    refused = call(tmp_path / "other", *asked)
    assert (refused.returncode, "device must be" in refused.stderr) == (2, True)


def test_axes_that_are_called_like_columns_have_columns_of_their_own(tmp_path):
    words = own_study(tmp_path, axes="{'runs': (7, 8), 'task': ('u', 'v')}")
    assert call(tmp_path / "study", *words, "--seeds", "1", "--norms", "plain").returncode == 0
    with (tmp_path / "study" / "table.csv").open() as table:
        rows = [*csv.DictReader(table)]
    assert {(row["task"], row["runs"]) for row in rows} == {("task", "1")}
    assert {(row["setting task"], row["setting runs"]) for row in rows} == {
        ("u", "7"), ("u", "8"), ("v", "7"), ("v", "8"),
    }  # fmt: skip


BATCHES = """
def batching(trial):
    return wnrl.runs.Batching(refusal="too high" if trial.settings["rate"] > 4 else "")


def train_batch(trials, folders, progress):
    return [train(trial, folder, progress) for trial, folder in zip(trials, folders)]
"""


def test_a_grid_is_not_widened_to_what_the_engine_refuses(tmp_path):
    words = own_study(tmp_path, tuned="{'rate': (1.0, 2.0, 4.0)}", seeds="range(1)")
    file = Path(words[0])
    file.write_text(file.read_text().replace("\nSTUDY = Study(", BATCHES + "\nSTUDY = Study(", 1))
    shown = call(tmp_path / "study", *words, "--engine", "population", "--norms", "plain")
    assert shown.returncode == 0, shown.stderr
    assert "plain has rate=4.0, the edge of its grid" in shown.stdout


def test_a_run_whose_result_cannot_be_read_is_said_by_the_exit_status(tmp_path):
    words = [*own_study(tmp_path), "--seeds", "1", "--norms", "plain"]
    assert call(tmp_path / "study", *words).returncode == 0
    (result,) = results(tmp_path)
    result.write_text("{}")
    assert call(tmp_path / "study", *words).returncode == 1


def test_a_tuned_study_from_another_seed_says_what_was_chosen_and_its_verdicts(tmp_path):
    words = own_study(tmp_path, tuned="{'rate': (1.0, 2.0, 4.0)}", seeds="range(8)")
    words += ["--first-seed", "20", "--norms", "plain", "mine"]
    shown = call(tmp_path / "study", *words)
    assert shown.returncode == 0, shown.stderr
    assert "mine has rate=8.0, the edge of its grid" in shown.stdout
    assert {int(path.parent.name[4:]) for path in results(tmp_path)} == {
        *range(20, 28), *range(1020, 1025),
    }  # fmt: skip
    assert len(results(tmp_path)) == 2 * (4 * 5 + 8)
    with (tmp_path / "study" / "table.csv").open() as table:
        plain, mine = csv.DictReader(table)
    assert (plain["verdict"], mine["rate"]) == ("", "8.0")
    for text in (shown.stdout, (tmp_path / "study" / "report.html").read_text()):
        assert f"mine {mine['sentence']}" in text
    assert mine["sentence"].startswith(mine["verdict"])
    before = results(tmp_path)
    assert call(tmp_path / "study", *words).returncode == 0
    assert results(tmp_path) == before


@pytest.mark.parametrize(
    ("changes", "words", "message"),
    [
        ({"tasks": "[Task('nowhere', 'algo', 'own_study:train', RETURN, {'rate': 1})]"}, [],
         "no nowhere at rate 1"),
        ({"axes": "{'rate': (0.5, -1)}"}, [], "no task at rate -1"),
        ({"tasks": "[Task('task', 'algo', 'own_study:trian', RETURN)]"}, [],
         "own_study has no function 'trian'"),
        ({"baseline": "'none'"}, [], "baseline must be one of plain, mine, mine_slow, got 'none'"),
        ({"arms": "[Arm('plain')]"}, [], "norm must be one of"),
        ({}, ["--norms", "none"], "norms must be one of plain, mine, mine_slow, got 'none'"),
        ({}, ["--budget", "0.5"], "has no total_timesteps that a budget could scale"),
    ],
)  # fmt: skip
def test_what_a_study_file_asks_for_in_vain_is_one_line_before_anything_runs(
    tmp_path, changes, words, message
):
    refused = call(tmp_path / "study", *own_study(tmp_path, **changes), *words)
    assert refused.returncode == 2
    assert message in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert not (tmp_path / "study").exists()


def test_more_seeds_later_add_runs_and_redo_none_and_the_duration_stays(tmp_path):
    words = own_study(tmp_path, settings="{'seconds': 0.7}")
    folder = tmp_path / "study"
    first = call(folder, *words, "--seeds", "1", "--norms", "mine")
    assert (first.returncode, "without plain, the baseline" in first.stderr) == (0, True)
    before = results(folder)
    assert call(folder, *words, "--seeds", "2", "--norms", "mine").returncode == 0
    assert len(results(folder)) == 2
    assert before.items() <= results(folder).items()
    duration = json.loads((folder / "duration.json").read_text())["seconds"]
    assert call(folder, *words, "--seeds", "2", "--norms", "mine").returncode == 0
    assert json.loads((folder / "duration.json").read_text())["seconds"] == duration
    assert f"{duration:.0f} s in all calls" in (folder / "report.html").read_text()


def test_a_failed_and_a_damaged_run_cost_their_own_rows_and_no_traceback(tmp_path):
    words = [*own_study(tmp_path, settings="{'fail': 'mine'}"), "--workers", "1"]
    folder = tmp_path / "study"
    first = call(folder, *words)
    assert first.returncode == 0
    (folder / "task/algo/plain/seed1/result.json").write_text("")
    again = call(folder, *words)
    assert again.returncode == 1, again.stderr
    assert "\x1b" not in first.stderr + again.stdout
    assert r"mine · seed 0: NaN\x1b[31m" in again.stdout
    assert re.search("plain · seed 1: .*is damaged", again.stdout)
    assert re.search(r"mine_slow +2\.0 ", again.stdout) is None
    assert re.search(r"mine_slow +12\.0 \(11\.0 to 13\.0\)", again.stdout)


def test_shards_of_a_study_that_start_at_once_make_its_table(tmp_path):
    words = own_study(tmp_path, seeds="range(6)", settings="{'seconds': 0.2}")
    shards = [
        start(tmp_path / "study", *words, "--shard", f"{k}/2", "--workers", "1") for k in (1, 2)
    ]
    ends = [shard.communicate(timeout=100) for shard in shards]
    assert [shard.returncode for shard in shards] == [0, 0], ends
    assert {name.name for name in (tmp_path / "study").glob("*worker*")} == {
        "shard1of2-worker0.log", "shard2of2-worker0.log",
    }  # fmt: skip
    trained = [stderr.count("] algo · task") for _, stderr in ends]
    assert trained == [9, 9]
    assert any("minus plain" in stdout for stdout, _ in ends)  # said by the one that ends last
    with (tmp_path / "study" / "table.csv").open() as table:
        assert [(row["runs"], row["missing"]) for row in csv.DictReader(table)] == [("6", "0")] * 3


def test_a_shard_that_waits_for_tuning_runs_of_others_says_so_and_compares_nothing(tmp_path):
    words = own_study(tmp_path, tuned="{'rate': (1.0, 2.0, 4.0)}", seeds="range(8)")
    shown = call(tmp_path / "study", *words, "--norms", "plain", "--shard", "2/2")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines()[1:] == [
        "8 runs have not ended, algo · task · plain · rate=1.0 · seed 1000 the first; "
        "when all have, the same command goes on"
    ]
    assert len(results(tmp_path)) == 7


@pytest.mark.parametrize(
    ("text", "number"), [("7200", 7200), ("90m", 5400), ("2h", 7200), ("1.5d", 129600), ("3s", 3)]
)
def test_a_time_limit_is_in_seconds_or_has_its_unit(text, number):
    assert compare.seconds(text) == number


def test_folder_of_a_single_run_is_refused_without_advice_to_delete_it(tmp_path):
    write_json(tmp_path / "config.json", {"algo": "ppo"})
    refused = call(tmp_path, "quick")
    assert refused.returncode == 2
    assert "holds a single run, no study; choose another folder" in refused.stderr
    assert "delete" not in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_study_that_a_closed_terminal_stops_says_how_to_go_on(tmp_path):
    study = start(tmp_path / "study", *own_study(tmp_path, settings="{'seconds': 60}"))
    assert study.stdout.readline().strip() == str(tmp_path / "study")
    time.sleep(0.5)
    code, stderr = stop(study, signal.SIGHUP, lambda: True)
    assert code == 128 + signal.SIGHUP
    assert stderr.splitlines()[-1] == "stopped; the same command goes on from here"
    assert "Traceback" not in stderr


@pytest.mark.parametrize("words", [["--list", "studies"], ["quik"]])
def test_a_list_and_a_mistyped_word_need_no_torch(words):
    program = (
        "import runpy, sys\n"
        f"sys.argv = ['compare.py', *{words!r}]\n"
        f"try: runpy.run_path({str(ROOT / 'scripts' / 'compare.py')!r}, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'rich.progress', 'scipy') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert shown.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("task", "asked", "expected"),
    [
        ((2, "digits"), "auto", "auto"),  # settled when it is trained
        ((2, "digits"), "cuda", "cuda:0"),
        ((1, "CartPole-v1"), "auto", "auto"),
        ((1, "CartPole-v1"), "cuda", "cuda:0"),
    ],
)
def test_a_device_that_was_asked_for_is_named_in_full_and_another_stays_open(
    monkeypatch, task, asked, expected
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    quick = study_of("scripts.studies.quick")
    of, name = task
    study = replace(quick, tasks=[replace(quick.tasks[of], name=name)], settings={"device": asked})
    trial = study.trials()[0]
    _, module = runner(trial.task.runner)
    assert module.settings(trial)["device"] == expected
