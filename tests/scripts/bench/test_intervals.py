import pytest

from scripts.bench.intervals import CELLS, DROPS, NULL, Args, coverage_of_tuned, main
from wnrl.errors import UsageError


def test_a_small_run_prints_three_tables(capsys):
    main(Args(pairs=(8, 12), studies=20, null_studies=2, arms=3))
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    names = [line.split(" | ")[0].strip("| ") for line in lines]
    assert names[2 : 2 + len(CELLS)] == list(CELLS)
    assert names[4 + len(CELLS) :][: len(NULL)] == list(NULL)
    assert len(names) == 6 + len(CELLS) + len(NULL) + 2 * len(DROPS)
    assert all(line.count("|") == 4 for line in lines[2:])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"pairs": ()}, "pairs must be one or more"),
        ({"pairs": (8, 1)}, r"pairs\[1\] must be a whole number, 2 or more, got 1"),
        ({"studies": 0}, "studies must be a whole number above zero, got 0"),
        ({"null_studies": -1}, "null_studies must be a whole number above zero, got -1"),
        ({"arms": 1}, "arms must be a whole number, 2 or more, got 1"),
    ],
)
def test_flags_that_make_no_sense_are_refused(flags, message):
    with pytest.raises(UsageError, match=message):
        Args(**flags)


def test_the_noise_of_choosing_belongs_into_an_interval_of_tuned_arms():
    held, bare = coverage_of_tuned(0.5, 24, 5, studies=400)
    assert bare < 0.88
    assert held >= 0.92
