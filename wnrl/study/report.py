"""One self-contained HTML page that a study can be sent to someone with."""

import base64
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape as escape_html
from pathlib import Path, PurePath
from string import Template
from typing import Any
from urllib.parse import quote

from wnrl.errors import printable
from wnrl.runs import CONFIG, VERSIONS, read_or_nothing, write_text
from wnrl.study import figures
from wnrl.study.overall import Overall, overall
from wnrl.study.plan import is_number
from wnrl.study.sensitivity import sensitivities
from wnrl.study.summary import Row, by_task
from wnrl.study.table import cells, choice, columns, cost_cells, cost_columns, number

PICTURE = "samples.png"  # what a generative run leaves in its folder


def _template(name: str) -> Template:
    return Template(Path(__file__).with_name(name).read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Findings:
    """What a study has found so far."""

    name: str
    baseline: str
    """Name of the arm that the others are compared with."""
    root: Path
    """The folder that those of the trials are below."""
    rows: Sequence[Row]
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Facts to list at the foot, such as the command; a path becomes a link."""
    pending: str = ""
    """Why there are no rows yet."""


def write_report(path: Path, *findings: Findings) -> None:
    """Write one page on one study or several."""
    names = ", ".join(study.name for study in findings)
    title = escape(f"wnrl {'study' if len(findings) == 1 else 'studies'}: {names}")
    body = [f"<h1>{title}</h1>"]
    for study in findings:
        if len(findings) > 1:
            body.append(f"<h1>{escape(study.name)}</h1>")
        body += _Page(path.parent, study).sections()
    text = "\n".join(part for part in body if part)
    write_text(path, _template("page.html").substitute(title=title, body=text))


def escape(text: object) -> str:
    """Return a text for a page: no markup, and no control characters."""
    return escape_html(printable(text, 2000))


class _Page:
    """What one study has on the page."""

    def __init__(self, folder: Path, study: Findings) -> None:
        self.folder, self.study = folder, study
        self.root, self.rows = study.root, study.rows
        self.looks: figures.Looks = figures.looks_of(study.rows)

    def sections(self) -> list[str]:
        """Return its parts in their order."""
        judged = [(row, row.verdict.sentence) for row in self.rows if row.verdict]
        arms = {row.name: row for row in self.rows}.values()
        return [
            self._size(),
            _list(
                f"{self._mark(row)} {escape(f'{row.task.title}: {row.name} {sentence}')}"
                for row, sentence in judged
            ),
            _figures([figures.effects([row for row, _ in judged], self.looks)] if judged else []),
            _list(f"{self._name(row)}: {escape(row.arm.meaning)}" for row in arms),
            self._failures(),
            *self._over_dials(),
            self._over_tasks(),
            self._sensitivity(),
            *(part for rows in by_task(self.rows).values() for part in self._task(rows)),
            "<h2>How to read this</h2>",
            _template("reading.html").substitute(baseline=escape(self.study.baseline)),
            "<h2>How it was made</h2>",
            self._facts(),
        ]

    def _size(self) -> str:
        first = [row for row in self.rows if row.confidence is not None]
        sizes = {
            "task": len({row.task for row in first}),
            "arm": len({row.arm for row in first}),
            "seed": len({seed for row in first for seed in row.runs.folders}),
            "run": sum(len(row.runs.folders) for row in first),
        }
        words = (f"{size} {word}{'s' * (size != 1)}" for word, size in sizes.items())
        return f"<p class=muted>{escape(self.study.pending) or ', '.join(words)}</p>"

    def _failures(self) -> str:
        lines = [
            f"{escape(f'{row.task.title} · {row.name} · ')}"
            f"{self._link(row.runs.folders[seed], f'seed {seed}: {reason}')}"
            for row in self.rows
            if row.confidence is not None
            for seed, reason in row.reasons.items()
        ]
        return "<p class=failed>Runs without a score:</p>" + _list(lines) if lines else ""

    def _over_dials(self) -> list[str]:
        """Return the scores over what tasks differ by, or over the one axis, if it is a number."""
        groups: dict[tuple[str, ...], list[tuple[float, Row]]] = {}
        for row in self.rows:
            (name, value), where = row.task.dial or ("", 0.0), row.task.label
            if len(row.point) == 1 and is_number(row.point[0][1]):
                (name, value), where = row.point[0], row.task.title
            if name:
                groups.setdefault((name, where, row.task.metric.label), []).append((value, row))
        looks = figures.looks_of(replace(row, point=()) for row in self.rows)
        return [
            f"<h2>{escape(f'{where} over {dial}')}</h2>"
            + _figures([figures.over_dial(rows, looks, dial)])
            for (dial, where, _), rows in groups.items()
            if len({value for value, _ in rows}) > 1
        ]

    def _over_tasks(self) -> str:
        if not (arms := overall(self.rows)):
            return ""
        return (
            "<h2>Over several tasks</h2><p class=muted>Scores are 0 at the floor of a task and 1 "
            "where it is solved; tasks have equal weight.</p>"
            + _list(f"{self._mark(arm)} {escape(str(arm))}" for arm in arms)
            + _figures([figures.performance_profiles(arms, self.looks)])
        )

    def _sensitivity(self) -> str:
        if not (arms := sensitivities(self.rows)):
            return ""
        settings = ", ".join(arms[0].settings)
        return (
            f"<h2>Sensitivity to {escape(settings)}</h2><p class=muted>What an arm loses of its "
            "score, the mean over tasks with the settings that are best for each, where one choice "
            "has to do for all; 0 and 1 are the 5th and 95th percentile of a task's runs.</p>"
            + _list(escape(arm) for arm in arms)
        )

    def _task(self, rows: Sequence[Row]) -> list[str]:
        task, looks = rows[0].task, self.looks
        better = "higher" if task.metric.higher_is_better else "lower"
        links = {
            (row.name, seed): self._address(folder)
            for row in rows
            for seed, folder in row.runs.folders.items()
        }
        head = [
            f"<h2>{escape(task.title)}</h2>",
            f"<p class=muted>{escape(task.metric.label)}, {better} is better. In the figures a dot "
            f"is a run, a band an interval or, of few runs, their range.</p>",
            self._arms(rows, columns(self.study.baseline)[1:], lambda row: cells(row)[1:]),
        ]
        dots = figures.final_scores(rows, looks, links)
        if rows[0].confidence is None:  # a further number of the same runs
            return [*head, _figures([dots])]
        tuned = dict.fromkeys(name for row in rows if row.choice for name in row.choice.grid)
        timed = any(row.time for row in rows)
        tags = dict.fromkeys(tag for row in rows for tag in row.diagnostics)
        return [
            *head,
            _figures(
                [
                    figures.learning_curves(rows, looks),
                    dots,
                    *(figures.over_choices(rows, looks, name) for name in tuned),
                    *([figures.learning_curves(rows, looks, over_time=True)] if timed else []),
                ]
            ),
            _list(
                f"{self._name(row)} has {escape(choice(row))}, chosen on seeds of its own"
                for row in rows
                if row.choice
            ),
            "<h3>Cost</h3>",
            self._arms(rows, cost_columns(rows), cost_cells),
            "<h3>Diagnostics</h3>" if tags else "",
            self._arms(rows, tags, lambda row: [number(row.diagnostics.get(tag)) for tag in tags]),
            "<h3>Settings</h3>",
            self._settings(rows),
            "<h3>Runs</h3>",
            _list(self._runs(row) for row in rows),
            self._pictures(rows),
        ]

    def _arms(
        self, rows: Sequence[Row], heads: Iterable[str], line: Callable[[Row], Iterable[str]]
    ) -> str:
        """Return a table with a line an arm; nothing without columns."""
        if not (heads := "".join(f"<th>{escape(head)}</th>" for head in heads)):
            return ""
        body = ""
        for row in rows:
            cells = "".join(f"<td>{escape(cell)}</td>" for cell in line(row))
            body += f"<tr><td>{self._name(row)}</td>{cells}</tr>"
        head = f"<thead><tr><th>arm</th>{heads}</tr></thead>"
        return f"<div class=scroll><table>{head}{body}</table></div>"

    def _settings(self, rows: Sequence[Row]) -> str:
        """Return what all runs of a task were told, then in what the arms differ."""
        told = {row.name: self._told([row], CONFIG, json.dumps) for row in rows}
        begun = [values for values in told.values() if values]
        names = dict.fromkeys(name for values in begun for name in values if name != "seed")
        varied = [n for n in names if any(values.get(n) != begun[0].get(n) for values in begun)]
        shared = (
            f"{escape(name)} <code>{escape(begun[0][name])}</code>"
            for name in names
            if name not in varied
        )
        parts = {
            row.name: sorted({part for o in row.runs.outcomes.values() for part in o.plain_parts})
            for row in rows
        }
        return (
            f"<p class=small>{' · '.join(shared)}</p>"
            + self._arms(
                rows, varied, lambda row: [told[row.name].get(name, "–") for name in varied]
            )
            + _list(
                f"{self._name(row)} was not applied to {escape(', '.join(parts[row.name]))}."
                for row in rows
                if parts[row.name]
            )
        )

    def _told(
        self, rows: Iterable[Row], name: str, as_text: Callable[[Any], str]
    ) -> dict[str, str]:
        """Return what a file of all runs says; of what the runs differ in, all that they say."""
        said: dict[str, set[str]] = {}
        for folder in dict.fromkeys(f for row in rows for f in row.runs.folders.values()):
            for key, value in read_or_nothing(self.root / folder / name).items():
                said.setdefault(key, set()).add(as_text(value))
        return {key: " and ".join(sorted(filter(None, values))) for key, values in said.items()}

    def _runs(self, row: Row) -> str:
        scores = row.scores
        runs = (
            f"{self._link(folder, seed)} {number(scores.get(seed))}"
            for seed, folder in row.runs.folders.items()
        )
        return f"{self._name(row)}, seed and score: <span class=small>{', '.join(runs)}</span>"

    def _pictures(self, rows: Sequence[Row]) -> str:
        shown = []
        for row in rows:
            seed, folder = next(iter(row.runs.folders.items()))
            picture = self.root / folder / PICTURE
            if picture.is_file() and not picture.is_symlink():
                data = base64.b64encode(picture.read_bytes()).decode()
                shown.append(
                    f"<figure><figcaption>{self._name(row)}, samples at seed {seed}"
                    f"</figcaption><img alt='samples' src='data:image/png;base64,{data}'></figure>"
                )
        return f"<div class=figures>{''.join(shown)}</div>" if shown else ""

    def _facts(self) -> str:
        def shown(fact: object) -> str:
            if isinstance(fact, Path):
                return self._link(fact, fact.name)
            return f"<code>{escape(fact)}</code>"

        versions = self._told(
            self.rows, VERSIONS, lambda value: "" if value is None else str(value)
        )
        facts = {**self.study.notes, **versions}
        return _list(f"{escape(name)}: {shown(fact)}" for name, fact in facts.items() if fact)

    def _mark(self, row: Row | Overall) -> str:
        look = self.looks[row.name]
        return f"<span style='color:{look.colour}'>{figures.MARKERS[look.marker]}</span>"

    def _name(self, row: Row) -> str:
        return f"{self._mark(row)}&nbsp;<b>{escape(row.name)}</b>"

    def _link(self, path: PurePath, text: object) -> str:
        return f"<a href='{self._address(path)}'>{escape(text)}</a>"

    def _address(self, path: PurePath) -> str:
        """Return a path below the study's folder as seen from the page."""
        return quote(Path(os.path.relpath(self.root / path, self.folder)).as_posix())


def _list(items: Iterable[str]) -> str:
    lines = "".join(f"<li>{item}</li>" for item in items)
    return f"<ul>{lines}</ul>" if lines else ""


def _figures(drawn: Sequence[str]) -> str:
    shown = "".join(f"<div>{figure}</div>" for figure in drawn)
    return f"<div class=figures>{shown}</div>" if shown else ""
