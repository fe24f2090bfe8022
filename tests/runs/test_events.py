import errno
import math
import os
import time

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from wnrl import tags
from wnrl.runs import EventFile
from wnrl.study.tensorboard import columns


def read(folder):
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def points(folder, tag):
    return [(event.step, event.value) for event in read(folder).Scalars(tag)]


def test_curves_are_in_the_file_as_soon_as_they_were_added(tmp_path):
    events = EventFile(tmp_path)
    events.add_scalar("a", 1.5, 1)
    events.add_scalar("a", 2.5, 2)
    assert points(tmp_path, "a") == [(1, 1.5), (2, 2.5)]


def test_diagnostics_are_the_last_values_and_the_mean_over_layers(tmp_path):
    events = EventFile(tmp_path)
    for tag, value in ((f"{tags.DORMANT}/a", 9.0), (f"{tags.DORMANT}/a", 1.0),
                       (f"{tags.DORMANT}/b", 2.0), (tags.VAE_VALID_KL, 5.0),
                       (f"{tags.RANK}/c", math.nan), ("rollout/ep_rew_mean", 3.0)):  # fmt: skip
        events.add_scalar(tag, value, 1)
    assert events.diagnostics() == {tags.DORMANT: 1.5, tags.VAE_VALID_KL: 5.0}


def test_a_run_that_goes_on_has_one_curve_in_one_file_whatever_the_clock_says(
    tmp_path, monkeypatch
):
    first = EventFile(tmp_path)
    first.add_scalar("a", 1.0, 1)
    size = first.size
    first.add_scalar("a", 9.0, 2)
    first.close()
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    again = EventFile(tmp_path)
    again.cut(size)
    again.add_scalar("a", 2.0, 2)
    assert points(tmp_path, "a") == [(1, 1.0), (2, 2.0)]
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_an_event_file_that_is_a_link_goes_on_as_a_copy(link, tmp_path):
    (tmp_path / "run").mkdir()
    EventFile(tmp_path / "run").add_scalar("a", 1.0, 1)
    (file,) = (tmp_path / "run").iterdir()
    before, backup = file.read_bytes(), tmp_path / "backup"
    file.rename(backup)
    link(backup, file)
    EventFile(tmp_path / "run").add_scalar("a", 2.0, 2)
    assert backup.read_bytes() == before
    assert points(tmp_path / "run", "a") == [(1, 1.0), (2, 2.0)]


def test_pictures_and_texts_are_found_by_tensorboard(tmp_path):
    events = EventFile(tmp_path)
    events.add_image("picture", np.zeros((3, 4, 5), np.uint8), 1)
    events.add_text("text", "| a | b |", 1)
    events.close()
    accumulator = read(tmp_path)
    picture = accumulator.Images("picture")[0]
    assert (picture.height, picture.width) == (4, 5)
    assert accumulator.Tags()["tensors"] == ["text/text_summary"]


HPARAMS = {"task": "digits", "norm": "weight", "seed": 1, "hidden": (64, 32),
           "norm_kwargs": {"g_rate": 3.0}}  # fmt: skip


def hparams_of(folder, name):
    content = read(folder).PluginTagToContent("hparams")[f"_hparams_/{name}"]
    return getattr(HParamsPluginData.FromString(content), name)


def test_values_of_all_types_are_kept_and_several_in_one_are_told_apart(tmp_path):
    EventFile(tmp_path).add_hparams(HPARAMS, {}, step=500)
    values = hparams_of(tmp_path, "session_start_info").hparams
    assert values["norm"].string_value == "weight"
    assert values["seed"].number_value == 1
    assert values["hidden"].string_value == "(64, 32)"
    assert values["norm_kwargs.g_rate"].number_value == 3.0


def test_metrics_stand_at_the_end_of_training_in_the_same_event_file(tmp_path):
    EventFile(tmp_path).add_hparams(HPARAMS, {tags.VAE_NLL: 23.0}, step=500)
    assert points(tmp_path, tags.VAE_NLL) == [(500, 23.0)]
    assert len(list(tmp_path.iterdir())) == 1


def test_columns_are_those_of_all_runs_and_mark_what_was_varied(tmp_path):
    agent = {"task": "CartPole-v1", "n_steps": 32, "seed": 0, "rate": 0.1, "target_kl": None}
    runs = [HPARAMS, agent, {**agent, "seed": 1, "target_kl": 0.5}]
    EventFile(tmp_path).add(columns(runs, {"g_rate"}))
    shown = hparams_of(tmp_path, "experiment")
    marked = {info.name for info in shown.hparam_infos if info.differs}
    assert marked == {"task", "norm", "seed", "norm_kwargs.g_rate"}
    assert {info.name for info in shown.hparam_infos} == {
        "task", "norm", "seed", "hidden", "norm_kwargs.g_rate", "n_steps", "rate", "target_kl",
    }  # fmt: skip
    assert tuple(info.name.tag for info in shown.metric_infos) == tags.METRICS


def test_a_full_disk_costs_curves_and_is_told_once(tmp_path, capsys, monkeypatch):
    events = EventFile(tmp_path)
    events.add_scalar("a", 1.0, 1)
    whole = events.size

    def full(writer, data):
        writer._writer.write(data[:5])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", full)
        events.add_scalar("a", 2.0, 2)
        events.add_scalar("a", 2.0, 2)
    assert events.size == whole
    events.add_scalar("a", 3.0, 3)  # there is space again
    assert points(tmp_path, "a") == [(1, 1.0), (3, 3.0)]
    assert capsys.readouterr().err.count("No space left") == 1


@pytest.mark.parametrize(
    "lose",
    [lambda file: file.unlink(), lambda file: file.parent.rename(file.parent.with_name("old"))],
)
def test_a_file_or_folder_that_is_gone_costs_curves_and_is_told_once(lose, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    events = EventFile(tmp_path / "run")
    lose(events.path)
    events.add_scalar("a", 1.0, 1)
    events.add_scalar("a", 2.0, 2)
    assert events.size == 0
    assert capsys.readouterr().err.count("curves are lost from here on") == 1


def test_the_names_of_other_event_files_are_not_ours(tmp_path):
    (tmp_path / "events.out.tfevents.1.host").write_bytes(b"")
    events = EventFile(tmp_path)
    assert events.path.name != "events.out.tfevents.1.host"
