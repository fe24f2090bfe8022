import contextlib
import resource

import pytest
import torch

from wnrl.errors import UsageError
from wnrl.vae.files import read_state, whole_file, write_state


@contextlib.contextmanager
def full_disk():
    """No file can grow beyond a thousand bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_state_comes_back_as_it_was(tmp_path):
    write_state(tmp_path / "a", {"weights": torch.arange(3.0), "step": 7})
    found = read_state(tmp_path / "a", "state", ("weights", "step"))
    assert torch.equal(found["weights"], torch.arange(3.0))
    assert found["step"] == 7


@pytest.mark.parametrize("size", [30, 30_000])  # the first alone fits into torch's own buffer
def test_on_a_full_disk_what_was_there_stays_and_the_rest_is_gone(size, tmp_path):
    write_state(tmp_path / "a", {"step": 1})
    before = (tmp_path / "a").read_bytes()
    with full_disk(), pytest.raises(OSError, match="File too large"):
        write_state(tmp_path / "a", {"weights": torch.zeros(size), "step": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == before


def test_a_writer_that_fails_leaves_what_was_there(tmp_path):
    def failing():
        with whole_file(tmp_path / "a") as file:
            file.write(b"after")
            raise ZeroDivisionError

    (tmp_path / "a").write_bytes(b"before")
    with pytest.raises(ZeroDivisionError):
        failing()
    assert (tmp_path / "a").read_bytes() == b"before"


class Code:
    """Would run code where it is unpickled."""

    def __reduce__(self):
        return print, ("ran",)


@pytest.mark.parametrize("content", [b"", b"half", "code", {"weights": 3}, [3]])
def test_anything_else_is_refused_on_one_line_and_never_run(content, tmp_path, capsys):
    path = tmp_path / "a"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(Code() if content == "code" else content, path)
    with pytest.raises(UsageError, match="a is damaged or no state: ") as refused:
        read_state(path, "state", ("weights", "step"))
    assert "\n" not in str(refused.value)
    assert capsys.readouterr().out == ""
