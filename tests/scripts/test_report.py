from pathlib import Path

import pytest

from scripts import _cli, report
from tests.study.test_gathered import single

ROOT = Path(__file__).resolve().parents[2]


def test_a_report_on_folders_ends_with_its_path_and_changes_nothing_else(tmp_path, capsys):
    for seed in range(2):
        single(tmp_path / "one", f"a{seed}", 100.0, norm="none", seed=seed)
        single(tmp_path / "two", f"a{seed}", 110.0, norm="weight", seed=seed)
    before = {*tmp_path.rglob("*")}
    page = tmp_path / "page.html"
    report.main(report.Args((tmp_path / "one", tmp_path / "two"), page))
    assert capsys.readouterr().out.splitlines()[-1] == f"report:  {page}"
    assert {*tmp_path.rglob("*")} - before == {page}
    assert "<h1>wnrl studies: one, two</h1>" in page.read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "folders must have one entry or more"),
        (["nowhere"], "nowhere is no folder"),
        (["."], "no run and no study in"),
        ([".", "--baseline", "nome"], "did you mean 'none'?"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        _cli.run(report.main, report.Args, argv=words)
    told = capsys.readouterr().err
    assert (left.value.code, told.count("\n")) == (2, 1)
    assert message in told
