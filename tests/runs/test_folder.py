import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from filelock import FileLock

from wnrl.errors import UsageError
from wnrl.runs import (
    checked_file,
    open_run,
    read_json,
    read_result,
    resolve_device,
    seed_everything,
    write_json,
)
from wnrl.runs.files import SCRATCH
from wnrl.runs.machine import versions

CONFIG = {"norm": "weight", "seed": 0, "hidden": [64, 64]}


def test_folder_of_a_new_run_holds_its_config_and_versions(tmp_path):
    with open_run(tmp_path / "a" / "b", CONFIG) as run:
        assert not run.finished
        assert read_json(run.path / "config.json") == CONFIG
        assert read_json(run.path / "versions.json")["torch"] == torch.__version__


def test_finished_run_is_read_and_not_touched(tmp_path):
    with open_run(tmp_path / "x", CONFIG) as run:
        (run.path / "model.zip").write_text("weights")
        run.write_result({"status": "finished"})
    with open_run(tmp_path / "x", CONFIG) as again:
        assert again.finished
        assert read_result(again.path) == {"status": "finished"}
        assert (again.path / "model.zip").read_text() == "weights"


def test_unfinished_run_loses_the_leftovers_of_the_killed_attempt_only(tmp_path):
    with open_run(tmp_path / "x", CONFIG) as run:
        (run.path / "events.out.tfevents.1.wnrl").write_text("half a curve")
        (run.path / "notes.txt").write_text("mine")
    with open_run(tmp_path / "x", CONFIG) as again:
        assert not (again.path / "events.out.tfevents.1.wnrl").exists()
        assert (again.path / "notes.txt").read_text() == "mine"


def test_a_reopened_run_keeps_its_files_until_it_begins_and_then_loses_its_result(tmp_path):
    with open_run(tmp_path / "x", CONFIG) as run:
        (run.path / "checkpoint.zip").write_text("state")
        run.write_result({"status": "finished"})
    longer = {**CONFIG, "seed": 1}
    with open_run(tmp_path / "x", longer, may_change=("seed",)) as again:
        assert again.finished
        assert read_json(again.path / "config.json") == CONFIG
        again.begin()
        assert not again.finished
        assert read_json(again.path / "config.json") == longer
        assert (again.path / "checkpoint.zip").read_text() == "state"


def test_a_run_is_reopened_with_its_own_configuration_but_for_what_may_change(tmp_path):
    with open_run(tmp_path / "x", CONFIG):
        pass
    with (
        pytest.raises(UsageError, match=r"norm='weight' \(asked: 'none'\); choose"),
        open_run(tmp_path / "x", {**CONFIG, "norm": "none", "seed": 1}, may_change=("seed",)),
    ):
        pass


@pytest.mark.parametrize("end", [SCRATCH, ".tmp"])
def test_run_killed_while_writing_its_config_can_start_again(end, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / f"config.json{end}").write_text('{"norm"')
    with open_run(tmp_path / "x", CONFIG) as run:
        assert run.config == CONFIG


def test_another_configuration_is_refused_by_key_and_nothing_is_lost(tmp_path):
    with open_run(tmp_path / "x", CONFIG) as run:
        (run.path / "events.out.tfevents.1.wnrl").write_text("curve")
    with pytest.raises(UsageError, match=r"norm='weight' \(asked: 'batch'\)"):
        open_run(tmp_path / "x", {**CONFIG, "norm": "batch"}).__enter__()
    assert (tmp_path / "x" / "events.out.tfevents.1.wnrl").read_text() == "curve"


def test_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UsageError, match="holds other files"):
        open_run(tmp_path, CONFIG).__enter__()


def test_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be made"):
        open_run(tmp_path / "file" / "run", CONFIG).__enter__()


def test_folder_in_use_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("wnrl.runs.folder.LOCK_SECONDS", 0.05)
    with (
        open_run(tmp_path / "x", CONFIG),
        pytest.raises(UsageError, match="in use by another process"),
    ):
        open_run(tmp_path / "x", CONFIG).__enter__()


def test_waiting_for_the_folder_of_another_run_ends_in_its_refusal(tmp_path):
    (tmp_path / "x").mkdir()
    with ThreadPoolExecutor() as pool, FileLock(tmp_path / "x" / ".lock"):
        waiting = pool.submit(open_run(tmp_path / "x", CONFIG).__enter__)
        time.sleep(0.3)
        write_json(tmp_path / "x" / "config.json", {**CONFIG, "norm": "batch"})
    with pytest.raises(UsageError, match="another configuration"):
        waiting.result()


@pytest.mark.parametrize("name", ["thesis.tmp", "config.json.tmp.tmp", "model.zip"])
def test_a_folder_with_a_file_of_others_is_not_taken_for_an_empty_one(tmp_path, name):
    (tmp_path / name).write_text("years of work")
    with pytest.raises(UsageError, match="holds other files"):
        open_run(tmp_path, CONFIG).__enter__()
    assert (tmp_path / name).read_text() == "years of work"


def test_a_folder_of_others_that_looks_like_a_scratch_file_is_refused(tmp_path):
    (tmp_path / "x.tmp").mkdir()
    with pytest.raises(UsageError, match="holds other files"):
        open_run(tmp_path, CONFIG).__enter__()


def test_an_unfinished_run_begins_without_touching_files_of_others(tmp_path):
    with open_run(tmp_path / "x", CONFIG, files=("model.zip",)) as run:
        for name in (
            "thesis.tmp",
            "events.out.tfevents.1.mine",
            "model.zip",
            "model.zip" + SCRATCH,
        ):
            (run.path / name).write_text("")
        (run.path / "result.json.tmp").mkdir()
    with open_run(tmp_path / "x", CONFIG, files=("model.zip",)) as run:
        present = {path.name for path in run.path.iterdir()}
    assert present == {"config.json", "versions.json", ".lock", "thesis.tmp", "result.json.tmp",
                       "events.out.tfevents.1.mine"}  # fmt: skip


def test_no_message_advises_to_delete_a_run(tmp_path):
    with open_run(tmp_path, CONFIG):
        pass
    with pytest.raises(UsageError) as refused:
        open_run(tmp_path, {**CONFIG, "norm": "batch"}).__enter__()
    assert "delete" not in str(refused.value)


def test_a_device_that_is_not_said_is_that_of_the_run(tmp_path):
    with open_run(tmp_path, {**CONFIG, "device": "cuda:0", "threads": 2}) as run:
        run.write_result({"status": "finished"})
    with open_run(tmp_path, {**CONFIG, "device": "auto", "threads": None}) as run:
        assert run.finished


def test_a_file_of_a_finished_run_is_refused_after_one_flipped_bit(tmp_path):
    with open_run(tmp_path, CONFIG) as run:
        (tmp_path / "model.zip").write_bytes(bytes(range(64)))
        run.write_result({"status": "finished"}, files=("model.zip", "absent.zip"))
    assert checked_file(tmp_path, "model.zip").read_bytes() == bytes(range(64))
    (tmp_path / "model.zip").write_bytes(bytes([*range(63), 63 ^ 4]))
    with pytest.raises(UsageError, match=r"model\.zip is damaged"):
        checked_file(tmp_path, "model.zip")
    with pytest.raises(UsageError, match="says nothing"):
        checked_file(tmp_path, "absent.zip")


def test_a_link_in_the_place_of_a_file_is_refused(tmp_path):
    (tmp_path / "secret").write_text("s")
    with open_run(tmp_path / "x", CONFIG) as run:
        (run.path / "samples.png").symlink_to(tmp_path / "secret")
        run.write_result({"status": "finished"}, files=("samples.png",))
    with pytest.raises(UsageError, match="no file"):
        checked_file(tmp_path / "x", "samples.png")


@pytest.mark.parametrize(
    "result",
    [{}, {"status": 3}, {"status": "failed"}, {"status": "finished", "files": "model.zip"},
     {"status": "finished", "files": ["model.zip"]}, {"status": "finished", "files": None}],
)  # fmt: skip
def test_a_result_that_says_something_else_is_refused_in_a_line(result, tmp_path):
    write_json(tmp_path / "result.json", result)
    look = checked_file if "files" in result else lambda folder, name: read_result(folder)
    with pytest.raises(
        UsageError, match=r"result\.json is damaged or of another version: \w+Error"
    ):
        look(tmp_path, "model.zip")


@pytest.mark.parametrize("damage", ["", '{"norm": "we', "[]"])
def test_damaged_file_is_named(tmp_path, damage):
    (tmp_path / "config.json").write_text(damage)
    with pytest.raises(UsageError, match=r"config\.json is damaged"):
        open_run(tmp_path, CONFIG).__enter__()


def test_configuration_with_an_infinite_number_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(UsageError, match="ent_coef must be finite, got nan"):
        open_run(tmp_path / "x", {"ent_coef": float("nan")}).__enter__()
    assert not (tmp_path / "x").exists()


def test_commit_of_another_project_is_not_ours(tmp_path, monkeypatch):
    monkeypatch.setattr("wnrl.runs.machine.HOME", tmp_path)
    found = versions.__wrapped__()  # which is called once a process
    assert (found["commit"], found["modified"]) == (None, None)


def test_json_with_a_nan_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "result.json", {"nll": float("nan")})
    assert not (tmp_path / "result.json").exists()


def test_device_words_are_checked():
    assert resolve_device("cpu") == torch.device("cpu")
    for word in ("gpu", "mps", "cuda:x"):
        with pytest.raises(UsageError, match="device must be"):
            resolve_device(word)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_refused_and_auto_is_the_cpu():
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(UsageError, match="finds no CUDA GPU"):
        resolve_device("cuda")


def test_a_gpu_has_one_name_however_it_is_asked_for(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [str(resolve_device(word)) for word in ("auto", "cuda", "cuda:0")] == ["cuda:0"] * 3
    assert resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(UsageError, match="there are 2 GPUs"):
        resolve_device("cuda:2")


def test_one_seed_gives_one_stream_of_numbers():
    seed_everything(3)
    first = torch.randn(4)
    seed_everything(3)
    assert torch.equal(first, torch.randn(4))
