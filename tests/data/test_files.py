import gzip
import hashlib
import http.server
import re
import threading
from pathlib import Path

import pooch
import pytest
import torch

from wnrl import data
from wnrl.data import sets
from wnrl.data.files import File, fetch, find, read_idx
from wnrl.errors import UsageError


def idx(n, side=28):
    header = bytes([0, 0, 8, 3]) + b"".join(k.to_bytes(4, "big") for k in (n, side, side))
    return gzip.compress(header + bytes((i + k) % 256 for i in [n] for k in range(n * side * side)))


@pytest.fixture(autouse=True)
def no_usual_places(tmp_path, monkeypatch):
    monkeypatch.delenv("WNRL_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def content():
    return idx(3)


@pytest.fixture
def file(content):
    return File("a.gz", f"sha256:{hashlib.sha256(content).hexdigest()}", "http://127.0.0.1:9/a.gz")


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
    assert fetch("some-set", file, data_dir) == folder / below / file.name


def test_the_folder_that_was_named_comes_first_and_the_subfolder_before_it(
    file, tmp_path, monkeypatch
):
    named, other = tmp_path / "named", tmp_path / "other"
    monkeypatch.setenv("WNRL_DATA", str(other))
    paths = [named / "set" / "a.gz", named / "a.gz", other / "set" / "a.gz", other / "a.gz"]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for path in paths:
        assert find("set", file, named) == path
        path.unlink()
    assert find("set", file, named) is None


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b[:50] + b"?" + b[51:]])
def test_a_truncated_or_altered_file_is_refused(damage, file, content, tmp_path):
    (tmp_path / "a.gz").write_bytes(damage(content))
    with pytest.raises(
        UsageError, match=r"a.gz is damaged or another file: its sha256 is not"
    ) as refused:
        fetch("set", file, tmp_path)
    assert f"put the one from {file.url} in its place" in str(refused.value)


def test_a_missing_file_is_downloaded_into_the_cache_with_a_progress_bar(
    file, content, served, tmp_path, capfd
):
    there = File(file.name, file.checksum, served + "a.gz")
    level = pooch.get_logger().level
    path = fetch("set", there, None)
    assert pooch.get_logger().level == level
    assert path == tmp_path / "cache" / "wnrl" / "set" / "a.gz"
    assert path.read_bytes() == content
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
    assert fetch("set", file, None) == folder / file.name


def test_what_cannot_be_downloaded_is_not_tried(tmp_path):
    with pytest.raises(UsageError, match=r"needs omniglot_small.*see https://github.com"):
        data.load("omniglot-small", tmp_path)


def test_idx_files_are_read_pixel_by_pixel_in_order(content, tmp_path):
    (tmp_path / "a.gz").write_bytes(content)
    pixels = read_idx(tmp_path / "a.gz")
    assert pixels.shape == (3, 28, 28)
    assert pixels.dtype == torch.uint8
    assert pixels[0, 0, :3].tolist() == [3, 4, 5]
    assert pixels[0, 1, 0] == 3 + 28


def test_every_published_file_has_a_checksum_of_a_known_kind():
    files = [*sets.MNIST, *sets.FASHION, *sets.STATIC_TEXT, *sets.STATIC_IDX, sets.CIFAR10,
             sets.OMNIGLOT_SMALL]  # fmt: skip
    for file in files:
        kind, _, value = file.checksum.partition(":")
        assert len(value) == 2 * hashlib.new(kind).digest_size
