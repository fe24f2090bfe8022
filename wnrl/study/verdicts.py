"""From the interval of a difference to one sentence; nothing else is looked at."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from wnrl.study.plan import Task
from wnrl.study.stats import LEAST, MOST, Sample, pairs_needed

Word = Literal["better", "worse", "no difference seen", "undecided"]


@dataclass(frozen=True)
class Verdict:
    """What a study says of an arm and the one that it is compared with."""

    word: Word
    sentence: str
    """Begins with the word, and needs the arm's name in front of it."""


def judge(task: Task, baseline: str, differences: Sample, confidence: float) -> Verdict:
    """Return the verdict on an arm.

    An interval of the mean difference that leaves out zero says better or worse. One that lies
    within ``task.negligible`` on both sides of zero says that no difference was seen. Any other,
    and fewer than ``LEAST`` pairs, leave it undecided.

    Args:
        task: What was learned.
        baseline: Name of the arm that it is compared with.
        differences: The arm's scores minus those of the baseline.
        confidence: Of the interval.
    """
    n = len(differences.values)
    if n < LEAST:
        rest = f"pairs of runs: {n}, and a verdict needs {LEAST}"
        return Verdict("undecided", f"undecided against {baseline}: {rest}")
    mean = differences.mean(confidence)
    shown = f"{task.metric.label} minus that of {baseline} is {mean} in {n} pairs of runs"
    if not mean.holds_zero:
        better = (mean.low > 0) == task.metric.higher_is_better
        word: Word = "better" if better else "worse"
        return Verdict(word, f"{word} than {baseline}: {shown}")
    margin, excluded = task.negligible, max(-mean.low, mean.high)
    if margin is not None and excluded < margin:
        rest = f"{shown}, so that more than {excluded:.3g} is excluded"
        return Verdict("no difference seen", f"no difference seen to {baseline}: {rest}")
    if excluded == math.inf:
        rest = "runs failed, and the task names no floor to count them as"
    else:
        pairs = pairs_needed(differences, margin, confidence)
        rest = f"about {pairs} would decide" if pairs else f"{MOST} would not decide"
        if not pairs and pairs_needed(replace(differences, choice_sd=0.0), margin, confidence):
            rest += " without more tuning seeds"
    return Verdict("undecided", f"undecided against {baseline}: {shown}; {rest}")
