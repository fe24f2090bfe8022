"""Parts of a study that several processes train side by side."""

import csv
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import fake_runner

from wnrl.errors import UsageError
from wnrl.runs import is_finished, locked, read_json, write_json
from wnrl.study.folder import Shard, add_duration, open_study, publish
from wnrl.study.tuning import conduct

STUDY = fake_runner.study_of(
    "succeed",
    "sleep",
    seeds=range(3),
    axes={"rate": (1, 2)},
    tuned={"gamma": (0.9, 0.99)},
    tuning_seeds=range(100, 103),
)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 100])
def test_shards_are_disjoint_and_have_all_trials_together(count):
    trials = STUDY.tuning_trials()
    parts = [Shard(k + 1, count).of(trials) for k in range(count)]
    assert Counter(trial for part in parts for trial in part) == Counter(trials)
    for part in parts:
        assert part == [trial for trial in trials if trial in part]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_every_shard_has_its_share_of_each_task_and_each_setting(count):
    trials = STUDY.tuning_trials()
    for key in (
        lambda trial: trial.task,
        lambda trial: trial.cell,
        lambda trial: trial.folder.parent,
    ):
        counts = [Counter(map(key, Shard(k + 1, count).of(trials))) for k in range(count)]
        for group in map(key, trials):
            sizes = [count[group] for count in counts]
            assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    "text", ["0/2", "3/2", "1/0", "1", "1/2/3", "a/b", "-1/2", "1.0/2", "", "²/2"]
)
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(UsageError, match="shard must be i/n with i from 1 to n, such as 1/4, got"):
        Shard.parse(text)


def test_a_shard_is_read_as_it_is_written():
    assert Shard.parse("2/8") == Shard(2, 8)


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        (Shard(1, 2), Shard(2, 2), True),
        (Shard(1, 2), Shard(1, 2), False),
        (Shard(1, 2), Shard(2, 3), False),
        (Shard(1, 2), Shard(), False),
        (Shard(), Shard(2, 2), False),
        (Shard(), Shard(), False),
    ],
)
def test_a_study_is_open_to_the_shards_of_one_division(
    tmp_path, monkeypatch, first, second, together
):
    monkeypatch.setattr("wnrl.runs.folder.LOCK_SECONDS", 0.1)
    trials = STUDY.trials()
    with ExitStack() as stack:
        stack.enter_context(open_study(tmp_path, STUDY, trials, first))
        if together:
            stack.enter_context(open_study(tmp_path, STUDY, trials, second))
        else:
            with pytest.raises(UsageError, match="is in use by another process"):
                stack.enter_context(open_study(tmp_path, STUDY, trials, second))
    with open_study(tmp_path, STUDY, trials, second):  # the first has let go
        pass


def test_a_study_of_another_budget_is_not_mixed_with_a_running_one(tmp_path):
    trials = STUDY.trials()
    tasks = [replace(task, settings={"total_timesteps": 10}) for task in STUDY.tasks]
    with (
        open_study(tmp_path, STUDY, trials, Shard(1, 2)),
        pytest.raises(UsageError, match="budget"),
        open_study(tmp_path, replace(STUDY, tasks=tasks, budget=0.5), trials, Shard(2, 2)),
    ):
        pass


def test_shards_that_are_called_in_turn_do_a_tuned_study_as_one_process_would(tmp_path):
    def train_part(root, shard, trials):
        for trial in shard.of(trials):
            if not is_finished(folder := root / trial.folder):
                folder.mkdir(parents=True)
                write_json(folder / "config.json", fake_runner.settings(trial))
                score = trial.settings["rate"] + trial.settings["gamma"] + trial.seed % 3
                result = {"status": "finished", "window_return": score}
                write_json(folder / "result.json", result)

    def call(root, shard):
        return conduct(STUDY, root, partial(train_part, root, shard))

    left = []
    for _ in range(3):  # the grid, its widening and the comparison
        for shard in (Shard(1, 2), Shard(2, 2)):
            left.append(bool(call(tmp_path / "parts", shard)[2]))
    assert left == [True, True, True, False, False, False]
    assert call(tmp_path / "parts", Shard(1, 2))[0] == call(tmp_path / "whole", Shard())[0]
    folders = [{path.relative_to(root) for path in root.rglob("result.json")}
               for root in (tmp_path / "parts", tmp_path / "whole")]  # fmt: skip
    assert folders[0] == folders[1]


def test_a_shard_that_waits_for_another_ones_table_then_has_what_ended_meanwhile(tmp_path):
    study = fake_runner.study_of("succeed", seeds=range(1))
    publishing = threading.Thread(target=publish, args=(tmp_path, study, study.trials()))
    with locked(tmp_path):
        publishing.start()
        time.sleep(0.3)
        for trial in study.trials():
            fake_runner.finish(trial, tmp_path / trial.folder)
    publishing.join(60)
    with (tmp_path / "table.csv").open() as table:
        assert {row["missing"] for row in csv.DictReader(table)} == {"0"}


def test_the_time_of_a_call_is_noted_while_another_shard_writes_its_report(tmp_path, monkeypatch):
    monkeypatch.setattr("wnrl.study.folder.PUBLISHING", 0.1)
    add_duration(tmp_path, 2.0)
    with locked(tmp_path):
        add_duration(tmp_path, 3.0)
    assert read_json(tmp_path / "duration.json") == {"seconds": 5.0}
