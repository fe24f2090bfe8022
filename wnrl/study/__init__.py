"""A comparison: plan, run, summarise, report."""

from wnrl.arguments import guard
from wnrl.study.plan import BEST_RETURN, NLL, RETURN, Arm, Metric, Study, Task, Trial

__all__ = ["BEST_RETURN", "NLL", "RETURN", "Arm", "Metric", "Study", "Task", "Trial"]

guard(globals(), ("Arm", "Metric", "Study", "Task", "Trial"))
