"""VAEs that are trained as one batch and leave the folders of ordinary runs."""

import os
import re
import signal

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from wnrl import data, vae
from wnrl.errors import UsageError
from wnrl.population import memory
from wnrl.population.vae import VAECohort
from wnrl.population.vae_run import batching, train_batch
from wnrl.runs import Stopped, read_config, read_json
from wnrl.study import NLL, Arm, Study, Task
from wnrl.study.execute import jobs
from wnrl.vae import run as vae_run

SMALL = {"n_steps": 40, "hidden": [12], "latent_dim": 4, "batch_size": 16, "n_samples": 5,
         "n_logs": 4}  # fmt: skip


def trials(norm="weight", n_seeds=3, axes=None, model="mlp", **values):
    sizes = {"device": "cpu", **SMALL, **values}
    task = Task("digits", model, "wnrl.vae.run:train", NLL, sizes)
    return Study("one", [task], [Arm(norm)], norm, seeds=range(n_seeds), axes=axes or {}).trials()


def run(root, planned):
    folders = [root / trial.folder for trial in planned]
    return folders, train_batch(planned, folders, lambda fraction: None)


def numbers(result):
    timed = ("wall_time", "memory_mib", "steps_per_second", "images_per_second")
    return {k: v for k, v in result.items() if k not in timed}


def scalars(folder):
    events = EventAccumulator(str(folder)).Reload()
    return {
        tag: [(point.step, point.value) for point in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if tag != "time/steps_per_second"
    }


@pytest.mark.parametrize(
    ("norm", "values"),
    [
        ("weight", {"data_init": 32}),
        ("batch", {}),
        ("none", {"objective": "iwae", "train_samples": 3, "likelihood": "logistic"}),
    ],
)
def test_folders_and_results_have_what_those_of_an_ordinary_run_have(tmp_path, norm, values):
    planned = trials(norm, 2, **values)
    folders, results = run(tmp_path / "batch", planned)
    one = tmp_path / "one"
    alone = vae_run.train(planned[0], one)
    names = {path.name.partition("tfevents")[0] for path in one.iterdir()}
    for folder, result in zip(folders, results, strict=True):
        assert {path.name.partition("tfevents")[0] for path in folder.iterdir()} == names
        assert {*result} == {*alone, "batch_members"}
        assert read_json(folder / "result.json")["files"].keys() == {
            *read_json(one / "result.json")["files"]
        }
        assert {*result["curve"]} == {*alone["curve"]}
        assert result["curve"]["steps"] == alone["curve"]["steps"] == [10, 20, 30, 40]
        assert result["protocol"] == alone["protocol"]
        assert vae_run.in_words(result)
    assert read_config(folders[0]) == read_config(one)
    ours, ordinary = scalars(folders[0]), scalars(one)
    assert {*ours} == {*ordinary}
    assert results[0]["diagnostics"].keys() == alone["diagnostics"].keys()
    pictures = [EventAccumulator(str(f)).Reload().Tags()["images"] for f in (folders[0], one)]
    assert pictures[0] == pictures[1] != []


def test_a_folder_has_the_model_that_was_measured(tmp_path):
    planned = trials()
    images = data.load("digits")
    for folder, result in zip(*run(tmp_path, planned), strict=True):
        measured = vae.nll(vae.load(folder), images, vae.Protocol("digits", n_samples=5))
        assert measured.nll == result["nll"]
        assert np.array_equal(measured.per_image_nll, np.load(folder / "per_image_nll.npy"))
        assert result["selected"] == "last: step 40"


def test_the_curve_is_that_of_the_cohort(tmp_path):
    planned = trials(n_seeds=2)
    folders, results = run(tmp_path, planned)
    made = VAECohort(data.load("digits"), [vae_run.values_of(trial)[0] for trial in planned])
    for _ in range(10):
        update = made.iterate(measured=True)
    for k, (folder, result) in enumerate(zip(folders, results, strict=True)):
        elbo = made.validate()["vae/valid_elbo"][k].item()
        assert result["curve"]["vae/valid_elbo"][0] == elbo
        assert result["curve"]["vae/train_elbo"][0] == pytest.approx(made.sums[k, 0].item() / 10)
        points = scalars(folder)
        length = update.gradients[k].norm().item()
        assert points["vae/train_grad_norm"][0] == (10, pytest.approx(length))
        for tag in points:
            if tag.startswith(("norm/", "update_")):
                assert [step for step, _ in points[tag]] == [10, 20, 30, 40]


def test_a_member_alone_gives_what_it_gives_among_others(tmp_path):
    planned = trials(n_seeds=10)
    _, together = run(tmp_path / "a", planned)
    _, alone = run(tmp_path / "b", planned[4:5])
    assert {**numbers(together[4]), "batch_members": 1} == numbers(alone[0])


def test_members_of_one_batch_have_their_own_rates_and_betas(tmp_path):
    axes = {"learning_rate": (1e-4, 1e-2), "beta": (0.5, 1.0)}
    planned = trials(n_seeds=1, axes=axes)
    assert len({trial.batch_key() for trial in planned}) == 1
    folders, results = run(tmp_path, planned)
    had = [(read_config(f)["learning_rate"], read_config(f)["beta"]) for f in folders]
    assert had == [(1e-4, 0.5), (1e-4, 1.0), (1e-2, 0.5), (1e-2, 1.0)]
    assert len({result["nll"] for result in results}) == 4
    assert scalars(folders[0])["train/learning_rate"][0] == (10, pytest.approx(1e-4))


def test_a_member_that_becomes_nan_fails_alone(tmp_path):
    good, bad = trials(n_seeds=2), trials(n_seeds=1, learning_rate=1e38)
    folders = [tmp_path / name for name in ("bad", "0", "1")]
    failed, *results = train_batch([*bad, *good], folders, lambda fraction: None)
    assert [result["status"] for result in (failed, *results)] == ["failed", *["finished"] * 2]
    assert re.match(r"\S.* is (nan|inf|-inf) after 10 gradient steps", failed["reason"])
    assert "nll" not in failed
    _, alone = run(tmp_path / "alone", good)
    for result in results:
        result["batch_members"] = 2
    assert [numbers(result) for result in results] == [numbers(result) for result in alone]


def test_one_that_became_nan_since_the_last_point_is_not_saved(tmp_path, monkeypatch):
    iterate = VAECohort.iterate

    def iterate_and_break(cohort, **how):
        update = iterate(cohort, **how)
        if cohort.step == 37:
            cohort.params[0] = torch.nan
            os.kill(os.getpid(), signal.SIGTERM)
        return update

    monkeypatch.setattr(VAECohort, "iterate", iterate_and_break)
    planned = trials(n_seeds=2)
    with pytest.raises(Stopped):
        run(tmp_path, planned)
    saved = [(tmp_path / trial.folder / "checkpoint.zip").exists() for trial in planned]
    assert saved == [False, True]


@pytest.mark.parametrize("values", [{}, {"norm": "batch", "warm_up_epochs": 0.2}])
@pytest.mark.parametrize("at", [7, 30, 40])
def test_a_stopped_batch_goes_on_and_ends_as_if_nothing_had_been(tmp_path, monkeypatch, values, at):
    planned = trials(**values)
    whole, expected = run(tmp_path / "whole", planned)
    iterate = VAECohort.iterate

    def iterate_and_stop(cohort, **how):
        update = iterate(cohort, **how)
        if cohort.step == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return update

    monkeypatch.setattr(VAECohort, "iterate", iterate_and_stop)
    with pytest.raises(Stopped) as stopped:
        run(tmp_path / "stopped", planned)
    assert f"at step {at} of 40; --resume goes on" in stopped.value.message
    monkeypatch.setattr(VAECohort, "iterate", iterate)
    folders, results = run(tmp_path / "stopped", planned)
    assert [numbers(result) for result in results] == [numbers(result) for result in expected]
    for folder, other in zip(folders, whole, strict=True):
        assert scalars(folder) == scalars(other)
        state, same = (vae.load(path).state_dict() for path in (folder, other))
        assert all(torch.equal(state[name], same[name]) for name in same)


def test_a_stopped_batch_does_not_go_on_with_images_that_have_changed(tmp_path, monkeypatch):
    planned = trials(n_seeds=1)
    stop = lambda cohort, **how: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(VAECohort, "iterate", stop)
        with pytest.raises(Stopped):
            run(tmp_path, planned)
    digits = data.load("digits")
    digits.test[0] = 16 - digits.test[0]
    monkeypatch.setattr("wnrl.vae.run.data.load", lambda *_: digits)
    with pytest.raises(UsageError, match="dataset 'digits' has changed since the run began"):
        run(tmp_path, planned)


def test_an_executor_takes_vaes_as_populations():
    planned = [*trials("none", 2), *trials("weight", 2)]
    shape = [
        (job.trials[0].arm.norm, len(job.trials), job.batch)
        for job in jobs(planned, "population", 1)
    ]
    assert shape == [("none", 2, True), ("weight", 2, True)]
    assert not any(job.batch for job in jobs(planned, "auto", 1))  # nothing is gained on a CPU


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model": "conv", "hidden": None, "latent_dim": None}, "have model mlp alone, got 'conv'"),
        ({"objective": "dreg"}, "have objective elbo or iwae alone, got 'dreg'"),
        ({"ema_epochs": 1.0}, "have ema_epochs 0.0 alone, got 1.0"),
        ({"compile": True}, "have compile False alone, got True"),
    ],
)
def test_what_a_population_does_not_have_is_one_line(changes, told):
    (trial,) = trials(n_seeds=1, **changes)
    assert told in batching(trial).refusal
    assert "\n" not in batching(trial).refusal
    assert batching(trials(n_seeds=1)[0]).refusal == ""


def test_a_vae_that_the_memory_does_not_hold_is_one_line(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: 2**10)
    assert re.search(r"1 members needs about .*: 0 members fit", batching(trials()[0]).refusal)


def test_a_gpu_is_given_as_many_members_as_it_holds_and_pays(monkeypatch):
    monkeypatch.setattr("wnrl.population.vae_run.resolve_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(memory, "free_memory", lambda device: 2**30)
    how = batching(trials()[0])
    assert how.pays
    assert how.refusal == ""
    assert 16 < how.members < 2**16
