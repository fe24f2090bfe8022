"""The rows of a study as text: cells for a terminal or a page, sentences, lines of CSV."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from wnrl.study.outcomes import COSTS
from wnrl.study.stats import Estimate
from wnrl.study.summary import Row


def cells(row: Row) -> dict[str, str]:
    """Return the row as text by the heads of columns; – where there is nothing to say."""
    return {
        "arm": row.name,
        "mean": str(row.score or "–"),
        f"minus {row.baseline}": str(row.difference or "–"),
        "better %": _whole(row.better),
        "solved %": _whole(row.solved),
        "steps/s": number(row.runs.cost("steps_per_second")),
        "failed": f"{len(row.runs.failed)}/{len(row.runs.outcomes) + len(row.runs.failed)}",
    }


def cost_columns(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the heads of a table of what the runs of a task cost."""
    time = next((row.time for row in rows if row.time), None)
    after = "at equal time" if time is None else f"after {time:.3g} s"
    label = rows[0].task.metric.curve_label
    return ("seconds", "steps/s", "MiB", "parameters", f"{label} {after}")


def cost_cells(row: Row) -> tuple[str, ...]:
    """Return what its runs cost, a cell a column."""
    costs = ("wall_time", "steps_per_second", "memory_mib", "parameters")
    return (*(number(row.runs.cost(key)) for key in costs), str(row.at_time or "–"))


def number(value: float | None) -> str:
    """Return a number with four digits or all of its whole ones; – for None."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _whole(share: Estimate | None) -> str:
    return "–" if share is None else f"{share.value:.0f} [{share.low:.0f}, {share.high:.0f}]"


def to_csv(rows: Sequence[Row]) -> str:
    """Return the table with full precision, one line a row; empty where there is no value."""
    out = io.StringIO()
    lines = [_line(row) for row in rows]
    names = list(dict.fromkeys(name for line in lines for name in line))
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def _line(row: Row) -> dict[str, Any]:
    task, verdict, scores = row.task, row.verdict, row.scores.values()
    pairs = 0 if row.differences is None else len(row.differences.values)
    head = {"task": task.name, "algo": task.label, "arm": row.arm.name, "norm": row.arm.norm}
    rest = {
        "chosen": row.choice,
        "metric": task.metric.key,
        "runs": len(scores),
        **_ends("mean", row.score),
        "lowest": min(scores, default=None),
        "highest": max(scores, default=None),
        "baseline": row.baseline,
        "pairs": pairs,
        **_ends("minus_baseline", row.difference),
        "confidence": row.difference and row.difference.confidence,
        "verdict": verdict and verdict.word,
        "sentence": verdict and verdict.sentence,
        **_ends("better_percent", row.better),
        **_ends("solved_percent", row.solved),
        **{key: row.runs.cost(key) for key in COSTS},
        "equal_time": row.time,
        **_ends("at_equal_time", row.at_time),
        "failed": len(row.runs.failed),
        "missing": len(row.runs.missing),
        "failures": "; ".join(row.failures),
        "retries": sum(map(len, row.runs.retried.values())),
        "retried": "; ".join(
            f"seed {seed}: {reason}" for seed, why in row.runs.retried.items() for reason in why
        ),
    }
    settings = row.point + (row.choice.settings if row.choice else ())
    named = {f"setting {k}" if k in head | rest else k: value for k, value in settings}
    return head | named | rest


def _ends(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    """Return value and interval; the range of few runs stands in columns of its own."""
    if estimate is None:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    ends = (None, None) if estimate.confidence is None else (estimate.low, estimate.high)
    return dict(zip((name, f"{name}_low", f"{name}_high"), (estimate.value, *ends), strict=True))
