from scripts.bench import executors


def test_a_line_says_what_an_executor_costs(capsys):
    executors.main(executors.Args(runs=3, seconds=0.1, workers=1, executors=("processes",)))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("processes: 3 runs of 0.1 s on 1 workers: ")
    over = float(line.split(": ")[2].split(" %")[0])
    assert over > 0
