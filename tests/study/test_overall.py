import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from wnrl.runs import write_json
from wnrl.study import BEST_RETURN, NLL, RETURN, Arm, Study, Task
from wnrl.study.overall import overall
from wnrl.study.summary import summarise

CARTPOLE = Task("CartPole-v1", "ppo", "a:b", RETURN, floor=0.0, solved=500.0, also=(BEST_RETURN,))
PENDULUM = Task("Pendulum-v1", "sac", "a:b", RETURN, floor=-1200.0, solved=-200.0)
DIGITS = Task("digits", "mlp", "a:b", NLL, floor=181.0, margin=0.1)
SEEDS = range(10)
RNG = np.random.default_rng(0)
SHARES = {  # of the way from floor to solved
    (task, name): RNG.uniform(0.2, 0.6, 10) + (name == "weight") * 0.1
    for task in ("CartPole-v1", "Pendulum-v1")
    for name in ("none", "weight", "layer")
}


@pytest.fixture
def rows(tmp_path):
    tasks = [CARTPOLE, PENDULUM, replace(PENDULUM, variant="2", arms=("layer",)), DIGITS]
    tasks[1] = replace(PENDULUM, arms=("none", "weight"))
    arms = [Arm("none"), Arm("weight"), Arm("layer")]
    trials = Study("s", tasks, arms, "none", seeds=SEEDS).trials()
    for trial in trials:
        share = SHARES[trial.task.name, trial.arm.name][trial.seed] if trial.task != DIGITS else 0
        floor, solved = trial.task.floor, trial.task.solved or 0.0
        score = floor + share * (solved - floor)
        (tmp_path / trial.folder).mkdir(parents=True)
        result = {"status": "finished", trial.task.metric.key: score, "best_return": score}
        if (trial.task.name, trial.arm.name, trial.seed) == ("Pendulum-v1", "weight", 3):
            result = {"status": "failed", "reason": "nan"}
        write_json(tmp_path / trial.folder / "result.json", result)
    return summarise(tmp_path, trials, "none")


def test_arms_are_compared_over_the_tasks_that_they_share_with_the_baseline(rows):
    none, weight = overall(rows)  # layer has only one of them, and digits no goal
    assert [(arm.name, arm.scores.shape) for arm in (none, weight)] == [
        ("none", (2, 10)), ("weight", (2, 10)),
    ]  # fmt: skip
    assert none.difference is None


def test_scores_are_scaled_and_a_seed_is_one_number(rows):
    expected = np.array([SHARES[task, "none"] for task in ("CartPole-v1", "Pendulum-v1")])
    none = overall(rows)[0]
    np.testing.assert_allclose(none.scores, expected)
    means = expected.mean(0)
    assert none.score.value == pytest.approx(means.mean())
    student = stats.ttest_1samp(means, 0).confidence_interval(0.95)
    assert none.score.low <= student.low + 1e-12
    assert none.score.high == pytest.approx(student.high, abs=0.01)


def test_no_interval_goes_beyond_what_the_tasks_can_give(tmp_path):
    tasks = [replace(CARTPOLE, variant=v, limits=(0.0, 500.0), also=()) for v in ("", "2")]
    trials = Study("s", tasks, [Arm("none"), Arm("weight")], "none", seeds=range(8)).trials()
    for trial in trials:
        (tmp_path / trial.folder).mkdir(parents=True)
        score = {0: 480.0, 1: 499.0}.get(trial.seed, 500.0) if trial.arm.name == "none" else 0.0
        result = {"status": "finished", RETURN.key: score}
        write_json(tmp_path / trial.folder / "result.json", result)
    none, weight = overall(summarise(tmp_path, trials, "none"))
    assert none.score.high == 1.0  # 1.03 without limits
    assert weight.difference.low == -1.0
    assert weight.score.low == 0.0


def test_differences_are_paired_and_a_failed_run_counts_as_the_floor(rows):
    shares = {key: values.copy() for key, values in SHARES.items()}
    shares["Pendulum-v1", "weight"][3] = 0.0
    gains = [shares[t, "weight"] - shares[t, "none"] for t in ("CartPole-v1", "Pendulum-v1")]
    weight = overall(rows)[1]
    assert weight.difference.value == pytest.approx(np.mean(gains))
    assert weight.difference.confidence == 0.95
    assert str(weight).startswith("weight over 2 tasks: 0.")


def test_profile_is_the_share_of_runs_above_each_threshold(rows):
    none = overall(rows)[0]
    shares = np.concatenate([SHARES["CartPole-v1", "none"], SHARES["Pendulum-v1", "none"]])
    thresholds = np.array([-math.inf, 0.3, 0.4, 1.0])
    expected = [np.mean(shares > threshold) for threshold in thresholds]
    np.testing.assert_allclose(none.profile(thresholds), expected)


def test_one_task_alone_is_no_comparison_over_tasks(rows):
    assert overall([row for row in rows if row.task.name == "CartPole-v1"]) == []
