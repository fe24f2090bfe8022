"""A comparison: plan, run, summarise, report."""
