"""Runs that are trained together: how they are grouped, and that each has a folder of its own."""

import os
import signal
import sys
from contextlib import closing
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import fake_batches

from wnrl.errors import UsageError
from wnrl.runs import Stopped, is_finished, read_json
from wnrl.study import RETURN, Arm, Study, Task
from wnrl.study.attempts import carry_out
from wnrl.study.execute import Job, jobs, noted
from wnrl.study.processes import Processes

NORMS = ("none", "weight", "layer", "batch")


def trials_of(norms, n_seeds=10, runner="fake_batches:train", **changes):
    task = Task("numbers", "sum", runner, RETURN, {"total_timesteps": 5})
    arms = [Arm(norm) for norm in norms]
    return Study("fake", [task], arms, norms[0], seeds=range(n_seeds), **changes).trials()


def shape(planned):
    return sorted((job.trials[0].arm.name, len(job.trials)) for job in planned)


def test_the_processes_engine_trains_each_trial_by_itself():
    trials = trials_of(NORMS)
    assert jobs(trials, "processes", 2) == [Job((trial,)) for trial in trials]


def test_batches_are_of_one_norm_and_of_equal_size():
    planned = jobs(trials_of(("none", "weight")), "population", 2)
    assert shape(planned) == [(norm, n) for norm in ("none", "weight") for n in (3, 3, 4)]
    assert all(len({trial.arm for trial in job.trials}) == 1 for job in planned)


def test_small_groups_are_divided_only_where_workers_would_be_idle():
    assert shape(jobs(trials_of(("none",), 4), "population", 2)) == [("none", 2)] * 2
    assert shape(jobs(trials_of(("none",), 1), "population", 2)) == [("none", 1)]
    both = [("none", 4), ("weight", 4)]
    assert shape(jobs(trials_of(("none", "weight"), 4), "population", 2)) == both
    assert shape(jobs(trials_of(("none", "batch"), 4), "auto", 5))[-1] == ("none", 4)


def test_rates_are_trained_together_with_seeds():
    axes = {"learning_rate": (1e-3, 1e-2)}
    assert shape(jobs(trials_of(("none",), 2, axes=axes), "auto", 1)) == [("none", 4)]


def test_jobs_begin_in_the_order_of_their_first_trials():
    trials = trials_of(("none", "weight"))
    planned = jobs(trials, "population", 2)
    assert planned[0].trials[0] == trials[0]
    assert [job.trials[0].arm.name for job in planned[:2]] == ["none", "weight"]


def test_auto_takes_what_can_be_batched_and_pays():
    planned = shape(jobs(trials_of(NORMS, 4), "auto", 1))
    assert planned == [("batch", 1)] * 4 + [("layer", 1)] * 4 + [("none", 4), ("weight", 4)]


def test_the_population_takes_also_what_does_not_pay():
    assert shape(jobs(trials_of(("layer",), 4), "population", 1)) == [("layer", 4)]


@pytest.mark.parametrize(
    ("norms", "runner", "message"),
    [
        (("batch",), "fake_batches:train", "batch · seed 0: no batch here; it takes none"),
        (("none",), "fake_runner:succeed", "trains one run at a time"),
    ],
)
def test_what_the_population_cannot_train_is_refused(norms, runner, message):
    with pytest.raises(UsageError, match=message):
        jobs(trials_of(norms, runner=runner), "population", 1)


@pytest.mark.parametrize("error", [UsageError("no steps"), ValueError("no steps")])
def test_a_trial_that_cannot_be_is_named_whatever_the_engine_asks(monkeypatch, error):
    def fail(trial):
        raise error

    monkeypatch.setattr(fake_batches, "batching", fail)
    for engine in ("auto", "population"):
        with pytest.raises(UsageError, match=r"^sum · numbers · none · seed 0: .*no steps"):
            jobs(trials_of(("none",), 1), engine, 1)


def test_an_unknown_engine_is_refused():
    with pytest.raises(UsageError, match="engine must be one of auto, population, processes"):
        jobs([], "jax", 1)


def test_a_worker_trains_a_batch_and_every_trial_ends_with_its_own_result(tmp_path):
    trials = trials_of(("none", "weight"), 4)
    with closing(carry_out(jobs(trials, "auto", 1), Processes(tmp_path, 2))) as events:
        ended = {e.trial: e.result for e in noted(events, tmp_path) if e.kind == "ended"}
    assert {*ended} == {*trials}
    for trial, result in ended.items():
        assert result["together"] == 4
        assert (
            result["final_return"]
            == read_json(tmp_path / trial.folder / "result.json")["final_return"]
        )
    assert len({result["final_return"] for result in ended.values()}) == 4  # a seed each


def configs(n=3, steps=10, **changes):
    base = {"scale": 1.0, "norm": "none", "total_timesteps": steps, "device": "auto"}
    return [{**base, "seed": seed, **changes} for seed in range(n)]


def folders(root, n=3):
    return [root / f"seed{seed}" for seed in range(n)]


def scores(results):
    return [result.get("final_return") for result in results]


def test_a_run_gives_the_same_alone_and_together(tmp_path):
    together = fake_batches.run(folders(tmp_path / "a"), configs())
    alone = fake_batches.run([tmp_path / "b"], configs()[2:])
    assert scores(together)[2:] == scores(alone)


def test_every_folder_is_that_of_an_ordinary_run(tmp_path):
    fake_batches.run(folders(tmp_path), configs())
    for seed, folder in enumerate(folders(tmp_path)):
        names = {path.name for path in folder.iterdir()} - {".lock"}
        events = {name for name in names if name.startswith("events.out.tfevents")}
        assert names - events == {"config.json", "versions.json", "sum.txt", "result.json"}
        assert len(events) == 1
        assert read_json(folder / "config.json")["seed"] == seed
        assert "sum.txt" in read_json(folder / "result.json")["files"]


def test_a_member_that_becomes_nan_fails_alone(tmp_path):
    members = configs()
    good = scores(fake_batches.run(folders(tmp_path / "good"), members))
    members[1]["scale"] = 1e200

    def spoil(batch):
        batch.members[1].total *= 1e200 if batch.step < 5 else float("nan")

    results = fake_batches.run(folders(tmp_path / "bad"), members, at=spoil)
    assert [result["status"] for result in results] == ["finished", "failed", "finished"]
    assert results[1]["reason"] == "the sum is NaN"
    assert [scores(results)[0], scores(results)[2]] == [good[0], good[2]]


def stop_at(step):
    return lambda batch: os.kill(os.getpid(), signal.SIGTERM) if batch.step == step else None


def test_a_stopped_batch_goes_on_from_its_checkpoints_with_other_companions(tmp_path):
    expected = scores(fake_batches.run(folders(tmp_path / "whole", 4), configs(4)))
    paths = folders(tmp_path / "stopped", 4)
    with pytest.raises(Stopped) as stopped:
        fake_batches.run(paths[:3], configs(4)[:3], at=stop_at(6))
    assert stopped.value.message == "stopped at step 6 of 10; --resume goes on from here"
    assert not any(map(is_finished, paths))
    steps = []
    results = fake_batches.run(paths, configs(4), at=lambda batch: steps.append(batch.step))
    assert scores(results) == expected
    assert [result["together"] for result in results] == [3, 3, 3, 1]  # by their steps
    assert len(steps) == 4 + 10


def test_a_run_that_goes_on_alone_has_cost_its_share_of_the_batch(tmp_path, monkeypatch):
    """Six of ten steps with three others; a step takes eight seconds by this clock."""
    now = 0.0
    monkeypatch.setattr("wnrl.runs.session.time.perf_counter", lambda: now)
    stop, paths = stop_at(6), folders(tmp_path, 4)

    def step(batch):
        nonlocal now
        now += 8.0
        stop(batch)

    with pytest.raises(Stopped):
        fake_batches.run(paths, configs(4), at=step)
    (result,) = fake_batches.run(paths[:1], configs(4)[:1], at=step)
    assert result["wall_time"] == 6 * 8.0 / 4 + 4 * 8.0


def test_a_finished_member_is_not_done_again(tmp_path):
    paths = folders(tmp_path)
    first = fake_batches.run(paths[:1], configs()[:1])
    results = fake_batches.run(paths, configs())
    assert results[0] == first[0]
    assert [result["together"] for result in results] == [1, 2, 2]


def test_progress_of_a_resumed_batch_never_goes_back(tmp_path):
    paths, shares = folders(tmp_path, 4), []
    with pytest.raises(Stopped):
        fake_batches.run(paths[:2], configs(4)[:2], at=stop_at(6))
    fake_batches.run(paths, configs(4), progress=shares.append)
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] <= 1
