import pytest
import torch

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
