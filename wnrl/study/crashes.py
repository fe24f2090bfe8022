"""Why attempts at a run left no result, which stands in its folder."""

from contextlib import suppress
from pathlib import Path

from wnrl.errors import UsageError, printable
from wnrl.runs import read_json, write_json
from wnrl.runs.folder import CRASHES


def crashes(path: Path) -> list[str]:
    """Return why attempts at a run left no result, the last one's reason last."""
    with suppress(UsageError, LookupError, TypeError):  # a damaged one says nothing of the run
        return [*map(str, read_json(path / CRASHES)["reasons"])]
    return []


def note_crash(path: Path, reason: str) -> None:
    """Let the folder of a run say why the last attempt at it left no result."""
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / CRASHES, {"reasons": [*crashes(path), printable(reason, 500)]})
