from scripts.bench.intervals import CELLS, NULL, Args, main


def test_a_small_run_prints_a_line_a_cell_and_a_line_for_each_null_study(capsys):
    main(Args(pairs=(8, 12), studies=20, null_studies=2, arms=3))
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    names = [line.split(" | ")[0].strip("| ") for line in lines]
    assert names[2 : 2 + len(CELLS)] == list(CELLS)
    assert names[-len(NULL) :] == list(NULL)
    assert all(line.count("|") == 4 for line in lines[2:])
