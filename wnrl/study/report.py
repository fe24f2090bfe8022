"""One self-contained HTML page that a study can be sent to someone with."""

import base64
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from wnrl.errors import is_real, printable
from wnrl.runs import CONFIG, VERSIONS, read_or_nothing, write_text
from wnrl.study import figures, overall, sensitivity, table
from wnrl.study.plan import grouped
from wnrl.study.summary import Row, by_task

PICTURE = "samples.png"  # what a generative run leaves in its folder


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
    """Write one page on one study or several.

    It is made by ``page.html``, where whatever a study says becomes text: no markup, and no control
    characters.
    """
    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
        finalize=lambda value: value if hasattr(value, "__html__") else printable(value, 2000),
    )
    pages.globals.update(figures=figures, table=table, by_task=by_task)
    studies = [_Page(path.parent, study) for study in findings]
    write_text(path, pages.get_template("page.html").render(studies=studies))


class _Page:
    """What one study has on the page."""

    def __init__(self, folder: Path, study: Findings) -> None:
        self.folder, self.study = folder, study
        self.root, self.rows = study.root, study.rows
        self.first = [row for row in self.rows if row.confidence is not None]
        self.judged = [row for row in self.rows if row.verdict]
        self.failures = [(row, *why) for row in self.first for why in row.reasons.items()]
        self.looks = figures.looks_of(study.rows)
        self.overall = overall.overall(study.rows)
        self.sensitivities = sensitivity.sensitivities(study.rows)

    def size(self) -> str:
        """Return how much there is, in words."""
        sizes = {
            "task": len({row.task for row in self.first}),
            "arm": len({row.arm for row in self.first}),
            "seed": len({seed for row in self.first for seed in row.runs.folders}),
            "run": sum(len(row.runs.folders) for row in self.first),
        }
        return ", ".join(f"{size} {word}{'s' * (size != 1)}" for word, size in sizes.items())

    def over_dials(self) -> list[tuple[str, str]]:
        """Return the scores over what tasks differ by, or over the one axis, if it is a number."""
        groups: dict[tuple[str, ...], list[tuple[float, Row]]] = {}
        for row in self.rows:
            (name, value), where = row.task.dial or ("", 0.0), row.task.label
            if len(row.point) == 1 and is_real(row.point[0][1]):
                (name, value), where = row.point[0], row.task.title
            if name:
                groups.setdefault((name, where, row.task.metric.label), []).append((value, row))
        looks = figures.looks_of(replace(row, point=()) for row in self.rows)
        return [
            (f"{where} over {dial}", figures.over_dial(rows, looks, dial))
            for (dial, where, _), rows in groups.items()
            if len({value for value, _ in rows}) > 1
        ]

    def figures(self, rows: Sequence[Row]) -> list[str]:
        """Return the figures of a task, or of a further number of the same runs."""
        dots = figures.final_scores(rows, self.looks, self.address)
        if rows[0].confidence is None:
            return [dots]
        tuned = dict.fromkeys(name for row in rows if row.choice for name in row.choice.grid)
        drawn = [figures.learning_curves(rows, self.looks), dots]
        drawn += [figures.over_choices(rows, self.looks, name) for name in tuned]
        if any(row.time for row in rows):
            drawn.append(figures.learning_curves(rows, self.looks, over_time=True))
        return drawn

    def settings(self, rows: Sequence[Row]) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
        """Return what all runs of a task were told, and by arm that in which arms differ."""
        told = {row.name: self.told([row], CONFIG, json.dumps) for row in rows}
        begun = [values for values in told.values() if values]
        names = dict.fromkeys(name for values in begun for name in values if name != "seed")
        varied = [n for n in names if any(values.get(n) != begun[0].get(n) for values in begun)]
        shared = {name: begun[0][name] for name in names if name not in varied}
        return shared, {
            arm: {name: values.get(name, "–") for name in varied} for arm, values in told.items()
        }

    def told(self, rows: Iterable[Row], name: str, as_text: Callable[[Any], str]) -> dict[str, str]:
        """Return what a file of all runs says; of what the runs differ in, all that they say."""
        folders = dict.fromkeys(f for row in rows for f in row.runs.folders.values())
        files = [read_or_nothing(self.root / folder / name) for folder in folders]
        said = grouped((key, as_text(value)) for file in files for key, value in file.items())
        return {key: " and ".join(sorted({*filter(None, all_of)})) for key, all_of in said.items()}

    def pictures(self, rows: Sequence[Row]) -> Iterator[tuple[Row, int, str]]:
        """Yield the picture that the first run of each arm left, with its seed, in base 64."""
        for row in rows:
            seed, folder = next(iter(row.runs.folders.items()))
            file = self.root / folder / PICTURE
            if file.is_file() and not file.is_symlink():
                yield row, seed, base64.b64encode(file.read_bytes()).decode()

    def facts(self) -> dict[str, Any]:
        """Return the study's notes, and the versions that its runs were made with."""
        versions = self.told(self.rows, VERSIONS, lambda value: "" if value is None else str(value))
        return {**self.study.notes, **{name: text for name, text in versions.items() if text}}

    def address(self, path: PurePath) -> str:
        """Return a path below the study's folder as seen from the page."""
        return quote(Path(os.path.relpath(self.root / path, self.folder)).as_posix())
