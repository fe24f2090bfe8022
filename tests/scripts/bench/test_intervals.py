from scripts.bench.intervals import CELLS, DROPS, NULL, Args, coverage_of_tuned, main


def test_a_small_run_prints_three_tables(capsys):
    main(Args(pairs=(8, 12), studies=20, null_studies=2, arms=3))
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    names = [line.split(" | ")[0].strip("| ") for line in lines]
    assert names[2 : 2 + len(CELLS)] == list(CELLS)
    assert names[4 + len(CELLS) :][: len(NULL)] == list(NULL)
    assert len(names) == 6 + len(CELLS) + len(NULL) + 2 * len(DROPS)
    assert all(line.count("|") == 4 for line in lines[2:])


def test_the_noise_of_choosing_belongs_into_an_interval_of_tuned_arms():
    held, bare = coverage_of_tuned(0.5, 24, 5, studies=400)
    assert bare < 0.88
    assert held >= 0.92
