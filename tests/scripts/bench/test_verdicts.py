import pytest

from scripts.bench.verdicts import Args, main
from wnrl.errors import UsageError


def folder(path, *words):
    lines = [f"CartPole-v1,ppo,{arm},{word}" for arm, word in zip("abc", ("", *words), strict=True)]
    path.mkdir()
    (path / "table.csv").write_text("\n".join(["task,algo,arm,verdict", *lines]))
    return path


def test_verdicts_that_turn_round_are_counted_in_pairs_of_studies(tmp_path, capsys):
    said = [
        ("better", "undecided"),
        ("worse", "undecided"),
        ("better", "worse"),
        ("undecided",) * 2,
    ]
    folders = [folder(tmp_path / str(k), *words) for k, words in enumerate(said)]
    main(Args(tuple(folders)))
    printed = capsys.readouterr().out
    assert "a verdict turned round: 2 of 6" in printed
    assert "better or worse: 3 of 4" in printed
    of_b = next(line for line in printed.splitlines() if " b " in line)
    assert of_b.split()[-4:] == ["2", "1", "1", "2"]  # better, undecided, worse, meetings


def test_what_cannot_be_compared_is_refused(tmp_path):
    one = folder(tmp_path / "one", "better", "worse")
    for folders in ((), (one,), (one, one)):
        with pytest.raises(UsageError, match="studies must be two or more different folders"):
            Args(folders)
    with pytest.raises(UsageError, match="has no table"):
        main(Args((one, tmp_path)))
    axes = folder(tmp_path / "axes", "better", "worse")
    table = axes / "table.csv"
    table.write_text(table.read_text().replace(",c,", ",b,"))
    with pytest.raises(UsageError, match="axes"):
        main(Args((one, axes)))


@pytest.mark.parametrize("damaged", [b"", b"task,algo\n", b"\xb2\x00,1\n"])
def test_a_damaged_table_is_a_line(tmp_path, damaged):
    one, other = (folder(tmp_path / k, "better", "worse") for k in "xy")
    (other / "table.csv").write_bytes(damaged)
    with pytest.raises(UsageError, match=r"table\.csv is no table of a study: "):
        main(Args((one, other)))
