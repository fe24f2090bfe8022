import gzip
import hashlib
import http.server
import re
import threading
from pathlib import Path

import numpy as np
import pooch
import pytest
import torch

from wnrl import data
from wnrl.data import sets
from wnrl.data.files import File, candidates, fetch, read_idx
from wnrl.data.sets import _of_idx_files
from wnrl.errors import UsageError


def pixels(n, side=28):
    return ((n + np.arange(n * side * side)) % 256).astype(np.uint8).reshape(n, side, side)


def idx(images):
    sizes = b"".join(size.to_bytes(4, "big") for size in images.shape)
    return bytes([0, 0, 8, images.ndim]) + sizes + images.tobytes()


def checksum(images):
    return f"sha256:{hashlib.sha256(images.tobytes()).hexdigest()}"


@pytest.fixture(autouse=True)
def no_usual_places(tmp_path, monkeypatch):
    monkeypatch.delenv("WNRL_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def content():
    return gzip.compress(idx(pixels(3)))


@pytest.fixture
def file():
    return File("a.gz", checksum(pixels(3)), "http://127.0.0.1:9/a.gz", ("a.npz:x_train",))


@pytest.fixture
def served(tmp_path, content):
    """A web server on this machine that has the file; the address of its folder."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "a.gz").write_bytes(content)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("below", ["", "some-set", "some_set"])
@pytest.mark.parametrize("place", ["data_dir", "WNRL_DATA", "cache"])
def test_files_are_found_in_every_usual_place(place, below, file, content, tmp_path, monkeypatch):
    folder = tmp_path / "cache" / "wnrl" if place == "cache" else tmp_path / "elsewhere"
    (folder / below).mkdir(parents=True)
    (folder / below / file.name).write_bytes(content)
    if place == "WNRL_DATA":
        monkeypatch.setenv("WNRL_DATA", str(folder))
    data_dir = folder if place == "data_dir" else None
    assert torch.equal(fetch("some-set", file, data_dir), torch.from_numpy(pixels(3)))


def test_the_folder_that_was_named_comes_first_and_the_subfolder_before_it(
    file, tmp_path, monkeypatch
):
    named, other = tmp_path / "named", tmp_path / "other"
    monkeypatch.setenv("WNRL_DATA", str(other))
    paths = [named / "set" / "a.gz", named / "a.gz", other / "set" / "a.gz", other / "a.gz"]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for path in paths:  # the first one is complained of, since none is right
        with pytest.raises(UsageError, match=f"^{re.escape(str(path))} is damaged"):
            fetch("set", file, named)
        path.unlink()
    assert not any(candidates("set", file, named))


def test_a_file_of_another_set_in_front_of_the_right_one_is_passed_over(file, content, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.gz").write_bytes(gzip.compress(idx(pixels(2))))
    (tmp_path / "a.gz").write_bytes(content)
    assert len(fetch("set", file, tmp_path)) == 3


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("a.gz", lambda path: path.write_bytes(gzip.compress(idx(pixels(3)), 1, mtime=1))),
        ("a", lambda path: path.write_bytes(idx(pixels(3)))),
        ("a.gz", lambda path: path.write_bytes(idx(pixels(3)))),
        ("a", lambda path: path.write_bytes(gzip.compress(idx(pixels(3))))),
        ("a.npz", lambda path: np.savez_compressed(path, x_train=pixels(3), y_train=np.ones(3))),
    ],
)
def test_the_same_images_packed_in_another_way_are_right(name, kept, file, tmp_path):
    kept(tmp_path / name)
    assert torch.equal(fetch("set", file, tmp_path), torch.from_numpy(pixels(3)))


@pytest.mark.parametrize("name", ["a", "a.gz"])
def test_a_file_of_which_only_the_published_bytes_are_known_must_be_these(name, content, tmp_path):
    file = File("a.gz", f"md5:{hashlib.md5(content).hexdigest()}", "http://127.0.0.1:9/a.gz")
    (tmp_path / name).write_bytes(idx(pixels(3)))
    told = {"a": "needs a.gz as it was published, which is not in", "a.gz": "its md5 is not"}
    with pytest.raises(UsageError, match=told[name]):
        fetch("set", file, tmp_path)
    (tmp_path / "a.gz").write_bytes(content)
    assert len(fetch("set", file, tmp_path)) == 3


@pytest.mark.parametrize("shape", [(-1, 28, 28, 1), (-1, 784), (-1, 1, 28, 28)])
def test_the_right_pixels_may_be_kept_in_another_shape(shape, tmp_path):
    images = pixels(3, side=28)
    files = [File(f"{key}.gz", checksum(images), "", (f"a.npz:{key}",)) for key in "ab"]
    np.savez(tmp_path / "a.npz", a=images.reshape(shape), b=images.reshape(shape))
    read = _of_idx_files("mnist", tuple(files), 1, tmp_path)
    assert torch.equal(read.test, torch.from_numpy(images).unsqueeze(1))


@pytest.mark.parametrize(
    ("dataset", "folder"), [("mnist", "MNIST/raw"), ("fashion-mnist", "FashionMNIST/raw")]
)
@pytest.mark.parametrize("named", ["above", "it"])
def test_the_folders_of_torchvision_are_looked_into(dataset, folder, named, file, tmp_path):
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "a").write_bytes(idx(pixels(3)))
    data_dir = tmp_path if named == "above" else (tmp_path / folder).parent
    assert len(fetch(dataset, file, data_dir)) == 3


@pytest.mark.parametrize("name", ["mnist", "digits", "frames:CartPole-v1"])
def test_a_folder_that_was_named_and_is_not_there_is_an_error(name, tmp_path):
    with pytest.raises(
        UsageError, match=r"data_dir must be a folder that is there, got '.*nowhere"
    ):
        data.load(name, tmp_path / "nowhere")


def test_an_environment_variable_that_names_no_folder_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("WNRL_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="WNRL_DATA must be a folder that is there, got"):
        data.load("mnist")


@pytest.mark.parametrize(
    "damage",
    [
        lambda packed: packed[:-9],
        lambda packed: packed[:50] + b"?" + packed[51:],
        lambda packed: b"",
        lambda packed: gzip.compress(gzip.decompress(packed)[:-1] + b"?"),
        lambda packed: gzip.compress(gzip.decompress(packed)[:-1]),
    ],
)
def test_a_truncated_or_altered_file_is_refused(damage, file, content, tmp_path):
    (tmp_path / "a.gz").write_bytes(damage(content))
    with pytest.raises(UsageError, match=r"a.gz is damaged or another file: ") as refused:
        fetch("set", file, tmp_path)
    assert "\n" not in str(refused.value)
    assert f"put the one from {file.url} in its place" in str(refused.value)


def test_a_missing_file_is_downloaded_into_the_cache_with_a_progress_bar(
    file, content, served, tmp_path, capfd
):
    there = File(file.name, file.checksum, served + "a.gz")
    level = pooch.get_logger().level
    assert len(fetch("set", there, None)) == 3
    assert pooch.get_logger().level == level
    assert (tmp_path / "cache" / "wnrl" / "set" / "a.gz").read_bytes() == content
    told = capfd.readouterr().err
    assert "100%" in told
    assert "Downloading" not in told


def test_a_download_that_is_another_file_is_refused_and_not_kept(file, served, tmp_path):
    other = File(file.name, "md5:" + "0" * 32, served + "a.gz")
    with pytest.raises(UsageError, match="could not be downloaded") as refused:
        fetch("set", other, None)
    assert "\n" not in str(refused.value)
    assert not list((tmp_path / "cache").rglob("a.gz"))


def test_without_a_network_one_line_says_which_file_goes_where(file, tmp_path):
    (tmp_path / "named").mkdir()
    with pytest.raises(UsageError) as refused:
        fetch("set", file, tmp_path / "named")
    message = str(refused.value)
    assert "\n" not in message
    assert "needs a.gz, which is not in" in message
    assert file.url in message
    assert str(tmp_path / "named") in message
    assert str(tmp_path / "cache" / "wnrl") in message


@pytest.mark.parametrize("below", ["", "set"])
def test_a_file_put_where_the_message_says_is_found(below, file, content, capfd):
    with pytest.raises(UsageError) as refused:
        fetch("set", file, None)
    assert capfd.readouterr() == ("", "")  # pooch names a folder too
    said = re.search(r"is not in (\S+) \(or set/ below\)", str(refused.value))
    folder = Path(said[1], below)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file.name).write_bytes(content)
    assert len(fetch("set", file, None)) == 3


def test_idx_files_are_read_pixel_by_pixel_in_order():
    read = read_idx(idx(pixels(3)))
    assert read.shape == (3, 28, 28)
    assert read.dtype == np.uint8
    assert read[0, 0, :3].tolist() == [3, 4, 5]
    assert read[0, 1, 0] == 3 + 28


@pytest.mark.parametrize("raw", [b"no idx file", bytes([0, 0, 13, 1, 0, 0, 0, 1, 0, 0, 0, 0])])
def test_what_is_no_idx_file_of_bytes_is_refused(raw):
    with pytest.raises(ValueError, match="no idx file of bytes"):
        read_idx(raw)


def test_every_published_file_has_a_checksum_of_a_known_kind():
    files = [*sets.MNIST, *sets.FASHION, *sets.STATIC, sets.CIFAR10]
    for file in files:
        kind, _, value = file.checksum.partition(":")
        assert len(value) == 2 * hashlib.new(kind).digest_size
