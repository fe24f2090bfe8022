"""One self-contained HTML page that a study can be sent to someone with."""

import base64
from collections.abc import Mapping, Sequence
from html import escape as escape_html
from pathlib import Path
from typing import Any

from wnrl.errors import UsageError, printable
from wnrl.runs import VERSIONS, read_json, write_text
from wnrl.study.figures import final_scores, learning_curves, performance_profiles
from wnrl.study.overall import overall
from wnrl.study.plan import Arm, Study, Task, Trial
from wnrl.study.summary import Row
from wnrl.study.table import cells, choice, columns

PICTURE = "samples.png"  # what a generative run leaves in its folder

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff;
       max-width: 1180px; margin: 2rem auto; padding: 0 1.2rem; }
h1 { margin-bottom: .2rem; } h2 { margin-top: 2.6rem; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%;
        font-size: .87rem; }
th, td { text-align: right; padding: .35rem .45rem; border-bottom: 1px solid #e4e4e4;
         white-space: nowrap; }
th { font-weight: 600; } td:nth-child(-n+2), th:nth-child(-n+2) { text-align: left; }
.scroll { overflow-x: auto; } .muted { color: #666; font-size: .92rem; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
.figures > div { flex: 1 1 430px; } svg { width: 100%; height: auto; }
.swatch { display: inline-block; width: .8em; height: .8em; border-radius: 2px;
          margin-right: .5em; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; overflow-x: auto; }
figcaption { font-size: .92rem; margin-bottom: .2rem; }
img { display: block; image-rendering: pixelated; }
.failed { color: #a40000; }
code { background: #f4f4f4; padding: .1em .3em; overflow-wrap: anywhere; }
@media (max-width: 700px) {
  body { font-size: 14px; padding: 0 .6rem; } ul { padding-left: 1.2rem; }
  table { font-size: 11px; } th, td { white-space: normal; padding: .35rem .2rem; }
  td:nth-child(2) { white-space: nowrap; } .swatch { margin-right: .3em; }
}
@media print { .scroll { overflow: visible; } table { font-size: 8pt; }
               th, td { white-space: normal; padding: .2rem; } }
"""

READING = """
<p>Every arm of a task has the same network, hyperparameters and seeds but for what the arm says
above; norms that change nothing at the start begin as the same function. Norms act on
hidden layers; weight norm acts on output layers too, unless a task says below that it was not
applied to them. <b>Mean</b> is over runs, a failed run counted as the
worst; with its 95 % interval or, of fewer than 8 runs, with their range in words, which covers
nothing. In simulations from 8 runs on, intervals of 95 % hold 93 to 97.5 % for most returns, up
to 100 % at a ceiling, and as little as 90 % where skewed returns of one arm have five times the
spread of the other's.
<b>Minus {baseline}</b> is the mean of the differences to the runs of {baseline} at the
same seed. The intervals of a study's first numbers are as wide as it takes for all of them
together to leave out a true zero in at most 5 % of studies; those of further numbers of the same
runs are 95 % each, and get no verdict. A verdict is made from this interval alone: better or worse
where it leaves out zero, no difference seen where it lies within a margin that the task names,
else undecided. Adding seeds until a verdict comes is a second look, and errs more often than 5 %.
<b>Better</b> is the share of pairs in which the run of this arm is better than that of {baseline},
<b>solved</b> the share of runs that reach the score at which the task counts as solved; their
intervals are Clopper and Pearson's. An interval without an end (inf) has failed runs in it, and
the task names no score to count them as. Between the lowest and the highest of n runs, which the
CSV file has, (n − 1)/(n + 1) of all runs are to be expected. Returns are means over the last tenth
of the learning curve, played on a separate environment; NLLs are on the test split, in nats an
image. The validation
ELBO beside an NLL is a bound with one sample and on other images, so its order of the arms may
differ from the NLL's. <b>Steps/s</b> is the median over runs of training steps a second in a
process of its own while other processes trained beside it. An arm that would prefer another
learning rate than those in the table is not shown at its best; where a setting was chosen, it was
chosen for each arm by itself, on seeds of their own, and the noise of choosing is in the
intervals.</p>
"""


def write_report(
    path: Path, study: Study, rows: Sequence[Row], trials: Sequence[Trial], notes: Mapping[str, Any]
) -> None:
    """Write the page.

    Args:
        path: The page; run folders are looked for beside it.
        study: Its name, its arms and its baseline.
        rows: The table.
        trials: The runs, for their pictures and versions.
        notes: Facts to list at the foot, such as the command.
    """
    root = path.parent
    tasks = list(dict.fromkeys(row.task for row in rows))
    arms = list(dict.fromkeys(row.arm for row in rows))
    seeds = len({trial.seed for trial in trials})
    title = escape(f"wnrl study: {study.name}")
    body = [
        f"<h1>{title}</h1>",
        f"<p class=muted>{len(tasks)} tasks, {len(arms)} arms, {seeds} seeds each</p>",
        *_verdicts(rows),
        "<ul>",
        *(f"<li>{_name(arm)}: {escape(arm.meaning)}</li>" for arm in arms),
        "</ul>",
        _table(rows, study.baseline),
        _failures(rows),
        _over_tasks(rows),
    ]
    for task in tasks:
        body.append(_section([row for row in rows if row.task == task], trials, root))
    body += [
        "<h2>How to read this</h2>",
        READING.format(baseline=escape(study.baseline)),
        "<h2>How it was made</h2>",
        _facts(root, trials, notes),
    ]
    page = (
        "<!doctype html>\n<html lang=en>\n<meta charset=utf-8>\n"
        "<meta name=viewport content='width=device-width, initial-scale=1'>\n"
        f"<title>{title}</title>\n<style>{STYLE}</style>\n" + "\n".join(body) + "\n</html>\n"
    )
    write_text(path, page)


def escape(text: object) -> str:
    """Return a text for a page: no markup, and no control characters."""
    return escape_html(printable(text, 2000))


def _name(arm: Arm, name: str = "") -> str:
    swatch = f"<span class=swatch style='background:{arm.colour}'></span>"
    return f"{swatch}<b>{escape(name or arm.name)}</b>"


def _verdicts(rows: Sequence[Row]) -> list[str]:
    lines = [
        f"<li>{escape(f'{row.task.title}: {row.name} {row.verdict.sentence}')}</li>"
        for row in rows
        if row.verdict
    ]
    return ["<ul class=verdicts>", *lines, "</ul>"] if lines else []


def _table(rows: Sequence[Row], baseline: str) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in ("task", *columns(baseline)))
    lines = []
    for row in rows:
        _, *numbers = (escape(cell) for cell in cells(row))
        task = escape(f"{row.task.title}, {row.task.metric.label}")
        rest = "".join(f"<td>{number}</td>" for number in numbers)
        lines.append(f"<tr><td>{task}</td><td>{_name(row.arm, row.name)}</td>{rest}</tr>")
    return f"<div class=scroll><table><tr>{head}</tr>{''.join(lines)}</table></div>"


def _over_tasks(rows: Sequence[Row]) -> str:
    if not (arms := overall(rows)):
        return ""
    lines = "".join(f"<li>{escape(str(arm))}</li>" for arm in arms)
    return (
        f"<h2>Over several tasks</h2><p class=muted>Scores are 0 at the floor of a task and 1 "
        f"where it is solved; tasks have equal weight.</p><ul>{lines}</ul>"
        f"<div class=figures><div>{performance_profiles(arms)}</div></div>"
    )


def _failures(rows: Sequence[Row]) -> str:
    lines = [
        f"<li>{escape(f'{row.task.title} · {row.name} · {failure}')}</li>"
        for row in rows
        for failure in row.failures
    ]
    return f"<p class=failed>Runs without a score:</p><ul>{''.join(lines)}</ul>" if lines else ""


def _section(rows: Sequence[Row], trials: Sequence[Trial], root: Path) -> str:
    task = rows[0].task
    better = "higher" if task.metric.higher_is_better else "lower"
    plain: dict[Arm, set[str]] = {}
    for row in rows:
        for outcome in row.runs.outcomes.values():
            plain.setdefault(row.arm, set()).update(outcome.plain_parts)
    untouched = "".join(
        f"<p class=muted>{_name(arm)} was not applied to {escape(', '.join(sorted(parts)))}.</p>"
        for arm, parts in plain.items()
        if parts
    )
    chosen = "".join(
        f"<p class=muted>{_name(row.arm, row.name)} has {escape(choice(row))}, chosen on seeds of "
        f"its own.</p>"
        for row in rows
        if row.choice
    )
    return (
        f"<h2>{escape(task.title)}</h2>"
        f"<p class=muted>{escape(task.metric.label)}, {better} is better. Left: while learning, "
        f"mean and interval over runs, of few runs their range. Right: at the end, every run a "
        f"dot.</p>"
        f"<div class=figures><div>{learning_curves(rows)}</div>"
        f"<div>{final_scores(rows)}</div></div>{chosen}{untouched}{_pictures(task, trials, root)}"
    )


def _pictures(task: Task, trials: Sequence[Trial], root: Path) -> str:
    figures = []
    for trial in trials:
        picture = root / trial.folder / PICTURE
        if (
            trial.task == task
            and trial.seed == trials[0].seed
            and picture.is_file()
            and not picture.is_symlink()
        ):
            data = base64.b64encode(picture.read_bytes()).decode()
            figures.append(
                f"<figure><figcaption>{_name(trial.arm)}, samples at seed {trial.seed}</figcaption>"
                f"<img alt='samples' src='data:image/png;base64,{data}'></figure>"
            )
    return f"<div class=pictures>{''.join(figures)}</div>" if figures else ""


def _facts(root: Path, trials: Sequence[Trial], notes: Mapping[str, Any]) -> str:
    seen: dict[str, set[str]] = {}
    for trial in trials:
        try:
            versions = read_json(root / trial.folder / VERSIONS)
        except (UsageError, OSError):  # a run that has not begun, or a damaged file
            continue
        for key, value in versions.items():
            if value is not None:
                seen.setdefault(key, set()).add(str(value))
    # More than one value: the runs were not all made with the same code.
    facts = {**notes, **{key: " and ".join(sorted(values)) for key, values in seen.items()}}
    lines = (f"<li>{escape(k)}: <code>{escape(v)}</code></li>" for k, v in facts.items())
    return f"<ul>{''.join(lines)}</ul>"
