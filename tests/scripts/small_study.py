"""The tasks and arms of the demo with a single rate."""

from dataclasses import replace

from scripts.studies.quick import STUDY as QUICK

STUDY = replace(QUICK, tuned={}, seeds=range(3))
