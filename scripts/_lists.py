"""What programs know by a word, for ``--list``: the rows of tables, what was imported included."""

from collections.abc import Iterable
from pathlib import Path

from wnrl.errors import check_choice

STUDIES = Path(__file__).parent / "studies"
Rows = Iterable[tuple[str, str]]
"""Words, each with what it means."""


def listed(what: str) -> list[str]:
    """Return a line on each word of a kind, a key of ``LISTS``.

    Raises:
        UsageError: There is no such kind.
    """
    rows = list(LISTS[check_choice("list", what, LISTS)]())
    width = max(len(word) for word, _ in rows) + 2
    return [f"{word:{width}}{meaning}".rstrip() for word, meaning in rows]


def norms() -> Rows:
    """Return the norms."""
    from wnrl.norms import NORMS

    return [(word, norm.meaning) for word, norm in NORMS.items()]


def algos() -> Rows:
    """Return the algorithms."""
    from agents import AGENTS

    return [(word, f"presets for {', '.join(row.presets)}") for word, row in AGENTS.items()]


def models() -> Rows:
    """Return the VAEs."""
    from wnrl.vae.models import MODELS

    for word, model in MODELS.items():
        meaning = _first_line(getattr(model, "func", model).__doc__)  # a partial's own is Python's
        options = [f"{name}={value}" for name, value in getattr(model, "keywords", {}).items()]
        yield word, " ".join([meaning, *options])


def envs() -> Rows:
    """Return the environments that Gymnasium knows."""
    import gymnasium

    import envs  # noqa: F401 (registers ours)

    return [(env_id, "") for env_id in sorted(gymnasium.registry)]


def datasets() -> Rows:
    """Return the data sets."""
    from wnrl.data import DATASETS, FORMS

    for word, row in DATASETS.items():
        yield word, f"{' × '.join(map(str, row.shape))}, {row.levels} levels"
    yield from FORMS.items()


def studies() -> Rows:
    """Return the studies that are shipped, with the first lines of their docstrings."""
    import ast  # only here, since programs import this before Ctrl-C is taken care of

    for path in sorted(STUDIES.glob("[!_]*.py")):
        yield path.stem, _first_line(ast.get_docstring(ast.parse(path.read_text("utf-8"))))


def _first_line(docstring: str | None) -> str:
    return (docstring or "").strip().partition("\n")[0]


LISTS = {rows.__name__: rows for rows in (norms, algos, models, envs, datasets, studies)}
