import errno
import time

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from wnrl import tags
from wnrl.runs import EventFile


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


def test_pictures_and_texts_are_found_by_tensorboard(tmp_path):
    events = EventFile(tmp_path)
    events.add_image("picture", np.zeros((3, 4, 5), np.uint8), 1)
    events.add_text("text", "| a | b |", 1)
    events.close()
    accumulator = read(tmp_path)
    picture = accumulator.Images("picture")[0]
    assert (picture.height, picture.width) == (4, 5)
    assert accumulator.Tags()["tensors"] == ["text/text_summary"]


def test_the_hparams_tab_gets_the_run_and_its_metrics_as_scalars(tmp_path):
    events = EventFile(tmp_path)
    hparams = {"task": "digits", "algo": "mlp", "norm": "weight", "seed": 0, "hidden": (8, 8)}
    events.add_hparams(hparams, {tags.VAE_NLL: 22.5}, 500)
    events.close()
    assert points(tmp_path, tags.VAE_NLL) == [(500, 22.5)]
    assert read(tmp_path).summary_metadata.keys() >= {"_hparams_/experiment"}


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


def test_the_names_of_other_event_files_are_not_ours(tmp_path):
    (tmp_path / "events.out.tfevents.1.host").write_bytes(b"")
    events = EventFile(tmp_path)
    assert events.path.name != "events.out.tfevents.1.host"
