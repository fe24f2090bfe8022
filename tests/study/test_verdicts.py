from dataclasses import replace

import numpy as np
import pytest

from wnrl.errors import UsageError
from wnrl.study import NLL, RETURN, Task
from wnrl.study.stats import Sample
from wnrl.study.verdicts import judge

CARTPOLE = Task("CartPole-v1", "ppo", "a:b", RETURN, floor=25.0, solved=475.0)  # margin 45
DIGITS = Task("digits", "mlp", "a:b", NLL, floor=181.0, margin=0.1)
SPREAD = np.linspace(-1.0, 1.0, 10)  # the 95 % interval of its mean is ±0.48


def verdict(task=CARTPOLE, mean=0.0, spread=1.0, confidence=0.95, values=SPREAD, **sample):
    return judge(task, "none", Sample(mean + spread * values, **sample), confidence)


@pytest.mark.parametrize(
    ("task", "mean", "word"),
    [(CARTPOLE, 2.0, "better"), (CARTPOLE, -2.0, "worse"),
     (DIGITS, -2.0, "better"), (DIGITS, 2.0, "worse")],
)  # fmt: skip
def test_an_interval_without_zero_is_better_or_worse_as_the_metric_says(task, mean, word):
    judged = verdict(task, mean)
    assert judged.word == word
    assert judged.sentence.startswith(
        f"{word} than none: {task.metric.label} minus that of none is"
    )


def test_an_interval_within_the_margin_says_how_large_a_difference_is_excluded():
    judged = verdict(mean=5.0, spread=20.0)  # 5 ± 9.6
    assert judged.word == "no difference seen"
    assert judged.sentence.endswith("in 10 pairs of runs, so that more than 14.6 is excluded")


def test_an_interval_with_zero_and_beyond_the_margin_says_how_many_pairs_would_decide():
    judged = verdict(mean=5.0, spread=100.0)  # 5 ± 48
    assert judged.word == "undecided"
    assert judged.sentence.endswith("; about 14 would decide")


def test_what_only_more_tuning_seeds_would_decide_is_told():
    judged = verdict(mean=20.0, spread=100.0, choice_sd=30.0)
    assert judged.sentence.endswith("; 1000 would not decide without more tuning seeds")


def test_without_a_margin_no_difference_is_never_seen():
    assert verdict(replace(CARTPOLE, floor=None), spread=0.01).word == "undecided"
    assert "1000 would not decide" in verdict(replace(CARTPOLE, floor=None)).sentence


def test_few_pairs_are_undecided_whatever_they_say():
    judged = verdict(mean=1000.0, values=SPREAD[:7])
    assert judged.sentence == "undecided against none: pairs of runs: 7, and a verdict needs 8"


def test_a_wider_interval_of_several_comparisons_takes_a_verdict_back():
    assert verdict(mean=0.5).word == "better"
    assert verdict(mean=0.5, confidence=0.99).word != "better"


def test_an_arm_with_failed_runs_that_count_as_nothing_is_never_better():
    judged = verdict(mean=2.0, open_below=True)
    assert judged.word == "undecided"
    assert judged.sentence.endswith("runs failed, and the task names no floor to count them as")
    assert verdict(mean=-2.0, open_below=True).word == "worse"


def test_equal_runs_at_the_ceiling_are_no_proof_of_equality():
    judged = verdict(values=np.zeros(10), bounds=(-500.0, 500.0))
    assert judged.word == "undecided"
    assert "0 [-154, 154]" in judged.sentence
    assert judged.sentence.endswith("; about 40 would decide")


def test_the_margin_is_a_tenth_of_the_way_from_floor_to_solved_unless_it_is_named():
    assert CARTPOLE.negligible == 45.0
    assert replace(CARTPOLE, margin=10.0).negligible == 10.0
    assert replace(CARTPOLE, solved=None).negligible is None
    assert replace(DIGITS, margin=None, solved=22.0).negligible == pytest.approx(15.9)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"solved": 20.0}, "solved must be better than floor 25.0, got 20.0"),
        ({"solved": float("nan")}, "solved must be finite, got nan"),
        ({"floor": float("nan"), "solved": None}, "floor must be finite, got nan"),
        ({"floor": None, "solved": float("inf")}, "solved must be finite, got inf"),
        ({"margin": 0.0}, "margin must be above zero"),
    ],
)
def test_a_scale_that_is_upside_down_is_refused(words, message):
    with pytest.raises(UsageError, match=message):
        replace(CARTPOLE, **words)
