import pytest
import torch
from torch._inductor.exc import InductorError

from wnrl.compiling import compiled


def doubled(x):
    return {"twice": 2 * x, "name": "x"}


def test_a_compiled_function_returns_what_the_plain_one_does(capsys):
    call = compiled(doubled, "it", backend="eager", fullgraph=True)
    for _ in range(2):
        assert call(torch.ones(2))["twice"].tolist() == [2, 2]
    assert capsys.readouterr().err == ""


def test_what_cannot_be_compiled_is_told_once_and_done_without(capsys):
    def broken(x):
        torch._dynamo.graph_break()
        return x + 1

    call = compiled(broken, "a part", backend="eager", fullgraph=True)
    assert [call(torch.zeros(1)).item() for _ in range(2)] == [1, 1]
    told = capsys.readouterr().err
    assert told.startswith("--compile: a part is not compiled: Unsupported")
    assert told.count("\n") == 1


def test_half_a_library_that_a_killed_compiler_left_is_made_anew(tmp_path, monkeypatch, capsys):
    library = tmp_path / "half.so"
    library.touch()

    def compile_(plain, **_):
        def chosen(x):
            if library.exists():
                raise InductorError(ImportError(f"{library}: file too short"), None)
            return plain(x) * 1.0

        return chosen

    monkeypatch.setattr(torch, "compile", compile_)
    assert compiled(lambda x: x + 1, "it")(torch.zeros(1)).item() == 1
    assert not library.exists()
    assert capsys.readouterr().err == ""


def test_an_error_of_the_function_itself_is_raised():
    def wrong(x):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        compiled(wrong, "it", backend="eager")(torch.zeros(1))


def test_graphs_return_copies_that_a_later_call_does_not_write_over(monkeypatch):
    buffer = torch.zeros(1)
    monkeypatch.setattr(torch, "compile", lambda plain, **_: lambda x: buffer.copy_(plain(x)))
    call = compiled(lambda x: x + 1, "it", graphs=True)
    first = call(torch.zeros(1))
    call(torch.ones(1))
    assert first.item() == 1
