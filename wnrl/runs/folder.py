"""The run folder: one place for a run's configuration, versions, logs, checkpoint and result.

A folder holds ``config.json`` (every resolved value), ``versions.json``, the event file, a
checkpoint and, written last, ``result.json``, which has the checksums of the files that belong to
it. A folder without it is unfinished, and no table reads it.
"""

import json
import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wnrl.errors import InUseError, UsageError, as_usage_error, printable
from wnrl.runs.events import EVENTS
from wnrl.runs.files import SCRATCH, file_checksum, read_json, write_json
from wnrl.runs.machine import versions

CONFIG, VERSIONS, RESULT, LOCK = "config.json", "versions.json", "result.json", ".lock"
CRASHES = "crashes.json"
CHECKPOINT = "checkpoint.zip"
FILES = "files"  # the entry of a result with the checksums of its files
WHERE = ("device", "threads", "compile", "extended_from")
"""Settings that may differ in a run that goes on: where, and from what it was extended."""
LOCK_SECONDS = 5.0  # how long the dying worker of a killed study may take to let go


@dataclass(frozen=True)
class Run:
    """An open run folder."""

    path: Path
    config: Mapping[str, Any]

    @property
    def finished(self) -> bool:
        """Whether the folder holds a result, of a run that succeeded or one that failed."""
        return is_finished(self.path)

    def begin(self) -> None:
        """Make the folder that of an unfinished run with this configuration."""
        (self.path / RESULT).unlink(missing_ok=True)
        write_json(self.path / CONFIG, self.config)
        write_json(self.path / VERSIONS, versions())

    def write_result(self, result: Mapping[str, Any], files: Collection[str] = ()) -> None:
        """End the run, after everything else is on disk.

        Args:
            result: What it gave, in JSON types.
            files: Names in the folder that belong to it, and patterns; those that are there.
        """
        written = sorted(path for name in files for path in self.path.glob(name))
        sums = {path.name: file_checksum(path) for path in written}
        write_json(self.path / RESULT, {**result, FILES: sums})


@contextmanager
def open_run(
    path: str | Path,
    config: Mapping[str, Any],
    *,
    files: Collection[str] = (),
    may_change: Collection[str] | None = None,
) -> Iterator[Run]:
    """Open a run folder for one process, making it if it is not there.

    Args:
        path: The folder itself.
        config: Every value that decides what the run does; JSON types.
        files: Names, and patterns, that an attempt may have left there besides logs and checkpoint.
            An unfinished folder is cleared of them; a finished one is not touched.
        may_change: Keys of ``config`` that may differ from what the run had until now, to go on
            with it; ``Run.begin`` is for the caller to call then. None begins anew what is
            unfinished.

    Raises:
        UsageError: The folder cannot be written, is in use, belongs to something else, or holds
            a run of another configuration. Nothing in it has been changed then.
    """
    path = Path(path)
    config = plain_json(config)
    check_run_folder(path, config, may_change or ())
    with locked(path):
        check_run_folder(path, config, may_change or ())  # another process may have begun a run
        run = Run(path, config)
        if may_change is None and not run.finished:
            clear(path, (*files, CHECKPOINT, EVENTS))
            run.begin()
        yield run


def clear(path: Path, files: Collection[str]) -> None:
    """Delete from ``path`` what ``files`` names, with patterns, and its scratch files."""
    for name in files:
        for leftover in (*path.glob(name), path / (name + SCRATCH)):
            if leftover.is_file() or leftover.is_symlink():
                leftover.unlink()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise UsageError where a file lacks what is looked for in it, or has it in another form."""
    try:
        yield
    except UsageError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        told = f"{type(error).__name__}: {printable(error)}"
        raise UsageError(f"{path} is damaged or of another version: {told}") from error


def read_result(folder: Path) -> dict[str, Any]:
    """Return what ``Run.write_result`` wrote, without the checksums of the files.

    Raises:
        UsageError: It is not there, or damaged.
    """
    result = read_json(folder / RESULT)
    with reading(folder / RESULT):
        if result["status"] != "finished":
            result["reason"] = printable(result["reason"], 500)
    result.pop(FILES, None)
    return result


def checked_file(folder: Path, name: str) -> Path:
    """Return the path of a finished run's file, whose bytes are those that the run wrote.

    Raises:
        UsageError: The file is not there, is a link, is damaged, or the result says nothing of it.
    """
    path = folder / name
    result = read_json(folder / RESULT)
    with reading(folder / RESULT):
        expected = result.get(FILES, {}).get(name)
    if expected is None:
        raise UsageError(f"{folder / RESULT} says nothing of a {name}")
    if path.is_symlink() or not path.is_file():
        raise UsageError(f"{path} is not there, or no file")
    if file_checksum(path) != expected:
        raise UsageError(f"{path} is damaged: it is not what the run wrote")
    return path


def read_config(folder: Path, *needed: str) -> dict[str, Any]:
    """Return the configuration of the run in a folder; empty where there is none.

    Args:
        folder: The run's.
        *needed: Settings that every run of the program has, and no other program's.

    Raises:
        UsageError: The file is damaged, or of another program.
    """
    path = folder / CONFIG
    config = read_json(path) if path.is_file() else {}
    missing = [key for key in needed if key not in config]
    if config and missing:
        told = f"run_dir {folder} holds a run of another program"
        raise UsageError(f"{told}: its {CONFIG} has no {' and no '.join(missing)}")
    return config


def check_run_folder(path: Path, config: Mapping[str, Any], may_change: Iterable[str] = ()) -> None:
    """Raise UsageError if ``path`` cannot become the folder of a run with ``config``.

    Args:
        path: The folder.
        config: As ``open_run`` has it.
        may_change: As ``open_run`` has it.
    """
    make_folder(path)
    if not (path / CONFIG).is_file():
        ours = {LOCK, CONFIG + SCRATCH, CONFIG + ".tmp", CRASHES}  # the third of earlier versions
        if others := {entry.name for entry in path.iterdir()} - ours:
            told = f"run_dir {path} holds other files ({printable(min(others), 40)})"
            raise UsageError(f"{told}, and no {CONFIG}; choose another one")
        return
    earlier = read_json(path / CONFIG)
    config = as_before(config, earlier)
    keys = sorted(differing(earlier, config) - {*may_change})
    if keys:
        shown = ", ".join(f"{k}={earlier.get(k)!r} (asked: {config.get(k)!r})" for k in keys[:4])
        more = f" and {len(keys) - 4} more" if len(keys) > 4 else ""
        told = f"run_dir {path} holds a run of another configuration: {shown}{more}"
        raise UsageError(f"{told}; choose another folder")


def as_before(
    config: Mapping[str, Any], earlier: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return ``config`` as an earlier run would say the same.

    Where it says nothing of device and threads it has the run's. A setting that has its default is
    left out where the run had no word for it; one that ``config`` has no word for any more is put
    in where the run had one.

    Args:
        config: JSON types, as a file has them.
        earlier: The configuration of the run; empty where there is none.
        defaults: What settings are where nothing is said, and what former settings always are now.
    """
    unsaid = [key for key in ("device", "threads") if config.get(key) in (None, "auto")]
    config = {**config, **{key: earlier[key] for key in unsaid if key in earlier}}
    if not earlier:
        return config
    usual = plain_json(defaults or {})
    config |= {key: value for key, value in usual.items() if key not in config}
    new = usual.keys() - earlier.keys()
    return {k: value for k, value in config.items() if k not in new or value != usual[k]}


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> set[str]:
    """Return the keys whose values differ between two configurations."""
    return {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}


def make_folder(path: Path) -> None:
    """Make ``path`` a folder that can be written, or raise UsageError."""
    with as_usage_error(f"run_dir {path} cannot be made", OSError, say=lambda e: e.strerror):
        path.mkdir(parents=True, exist_ok=True)
    if not os.access(path, os.W_OK | os.X_OK):
        raise UsageError(f"run_dir {path} cannot be written")


def is_finished(path: Path) -> bool:
    """Return True for the folder of a run that ended, with success or as a failure."""
    return (path / RESULT).is_file()


@contextmanager
def locked(path: Path, name: str = LOCK, seconds: float | None = None) -> Iterator[None]:
    """Hold an existing folder for this process; the system lets go when the process ends.

    Args:
        path: The folder.
        name: Of the file in it that stands for what is held.
        seconds: How long to wait for another process that holds it; ``LOCK_SECONDS`` by default,
            below zero without end.

    Raises:
        InUseError: Another process holds it.
    """
    from filelock import FileLock, Timeout

    try:
        with FileLock(path / name).acquire(timeout=LOCK_SECONDS if seconds is None else seconds):
            yield
    except Timeout as error:
        raise InUseError(f"run_dir {path} is in use by another process") from error


def crashes(path: Path) -> list[str]:
    """Return why attempts at a run left no result, the last one's reason last."""
    with suppress(UsageError, LookupError, TypeError):  # a damaged one says nothing of the run
        return [*map(str, read_json(path / CRASHES)["reasons"])]
    return []


def note_crash(path: Path, reason: str) -> None:
    """Let the folder of a run say why the last attempt at it left no result."""
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / CRASHES, {"reasons": [*crashes(path), printable(reason, 500)]})


def plain_json(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration as it reads from a file, tuples as lists.

    Raises:
        UsageError: A number is NaN or infinite.
    """
    for name, value in config.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{name} must be finite, got {value!r}")
    return json.loads(json.dumps(config, allow_nan=False))
