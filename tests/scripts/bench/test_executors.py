import pytest

from scripts.bench import executors


def test_a_line_says_what_an_executor_costs(capsys):
    executors.main(executors.Args(runs=3, seconds=0.1, workers=1, executors=("processes",)))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("processes: 3 runs of 0.1 s on 1 workers: ")


def test_what_is_over_the_runs_own_time_is_what_workers_waited_between_runs():
    results = [
        {"process": 1, "began": 10.0, "ended": 11.0},
        {"process": 2, "began": 10.5, "ended": 11.5},
        {"process": 1, "began": 11.5, "ended": 12.5},
    ]
    assert executors.share_over(results) == pytest.approx(0.5 / 3)
