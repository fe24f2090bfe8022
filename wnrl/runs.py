"""The run folder: one place for a run's configuration, versions, logs, checkpoints and result.

A folder holds ``config.json`` (every resolved value), ``versions.json``, the event file,
checkpoints and, written last, ``result.json``. A folder without it is unfinished, and no table
reads it: ``open_run`` starts that run again, ``reopen_run`` goes on with it.
"""

import json
import math
import os
import platform
import random
import subprocess
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wnrl.errors import UsageError

CONFIG, VERSIONS, RESULT, LOCK = "config.json", "versions.json", "result.json", ".lock"
# What an interrupted attempt may leave behind; other files in the folder are not ours to delete.
LEFTOVERS = (
    "events.out.tfevents.*",
    "*.tmp",
    "model.tmp.zip",
    "model.zip",
    "vecnormalize.pkl",
    "best_model.zip",
    "best_vecnormalize.pkl",
    "checkpoint.zip",
    "model.pt",
    "samples.png",
    "per_image_nll.npy",
)
LOCK_SECONDS = 5.0  # how long the dying worker of a killed study may take to let go
_HOME = Path(__file__).resolve().parents[1]  # the checkout, where there is one
PACKAGES = ("wnrl", "torch", "numpy", "gymnasium", "stable-baselines3", "sb3-contrib")


@dataclass(frozen=True)
class Run:
    """An open run folder."""

    path: Path
    config: Mapping[str, Any]

    @property
    def finished(self) -> bool:
        """Whether the folder holds a result, of a run that succeeded or one that failed."""
        return is_finished(self.path)

    def result(self) -> dict[str, Any]:
        """What ``write_result`` wrote."""
        return read_json(self.path / RESULT)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Ends the run; call it after everything else is on disk."""
        write_json(self.path / RESULT, result)

    def begin(self) -> None:
        """Makes the folder that of an unfinished run with this configuration."""
        (self.path / RESULT).unlink(missing_ok=True)
        write_json(self.path / CONFIG, self.config)
        write_json(self.path / VERSIONS, versions())


@contextmanager
def open_run(path: str | Path, config: Mapping[str, Any]) -> Iterator[Run]:
    """Opens a run folder for one process, making it if it is not there.

    An unfinished folder of the same configuration is cleared of what the interrupted attempt
    left; a finished one is not touched.

    Args:
        path: the folder itself.
        config: every value that decides what the run does; JSON types.

    Raises:
        UsageError: the folder cannot be written, is in use, belongs to something else, or holds
            a run of another configuration. Nothing in it has been changed then.
    """
    path = Path(path)
    config = plain_json(config)
    check_run_folder(path, config)
    with locked(path):
        check_run_folder(path, config)  # another process may have begun a run meanwhile
        run = Run(path, config)
        if not run.finished:
            for pattern in LEFTOVERS:
                for leftover in path.glob(pattern):
                    leftover.unlink()
            run.begin()
        yield run


@contextmanager
def reopen_run(
    path: str | Path, config: Mapping[str, Any], may_change: Collection[str] = ()
) -> Iterator[Run]:
    """Opens the folder of a run to go on with it; ``Run.begin`` is for the caller to call.

    Args:
        path: the folder itself.
        config: every value that decides what the run does from now on; JSON types.
        may_change: keys of ``config`` that may differ from what the run had until now.

    Raises:
        UsageError: as ``open_run``.
    """
    path = Path(path)
    config = plain_json(config)
    check_run_folder(path, config, may_change)
    with locked(path):
        check_run_folder(path, config, may_change)
        yield Run(path, config)


def check_run_folder(
    path: Path, config: Mapping[str, Any], may_change: Collection[str] = ()
) -> None:
    """Raises UsageError if ``path`` cannot become the folder of a run with ``config``."""
    make_folder(path)
    if (path / CONFIG).is_file():
        theirs = read_json(path / CONFIG)
        keys = sorted(
            k
            for k in theirs.keys() | config.keys()
            if theirs.get(k) != config.get(k) and k not in may_change
        )
        if keys:
            shown = ", ".join(f"{k}={theirs.get(k)!r} (asked: {config.get(k)!r})" for k in keys[:4])
            more = f" and {len(keys) - 4} more" if len(keys) > 4 else ""
            raise UsageError(
                f"run_dir {path} holds a run of another configuration: {shown}{more}; "
                "choose another folder or delete it"
            )
    elif any(entry.name != LOCK and entry.suffix != ".tmp" for entry in path.iterdir()):
        raise UsageError(f"run_dir {path} holds other files, and no {CONFIG}; choose another one")


def make_folder(path: Path) -> None:
    """Makes ``path`` a folder that can be written, or raises UsageError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"run_dir {path} cannot be made: {error.strerror}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise UsageError(f"run_dir {path} cannot be written")


def is_finished(path: Path) -> bool:
    """Whether ``path`` is the folder of a run that ended, with success or as a failure."""
    return (path / RESULT).is_file()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an existing folder for this process; the system lets go when the process ends.

    Raises:
        UsageError: another process has held it for ``LOCK_SECONDS``.
    """
    from filelock import FileLock, Timeout

    try:
        with FileLock(path / LOCK).acquire(timeout=LOCK_SECONDS):
            yield
    except Timeout as error:
        raise UsageError(f"run_dir {path} is in use by another process") from error


def write_text(path: Path, text: str) -> None:
    """Writes a file beside its destination, then renames, so that no reader sees half of it."""
    scratch = path.with_name(path.name + ".tmp")
    with scratch.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())  # else a power cut can leave the new name on an empty file
    scratch.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON as ``write_text`` does.

    Raises:
        ValueError: a number in ``value`` is NaN or infinite; JSON has no word for them.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object that ``write_json`` wrote.

    Raises:
        UsageError: the file is damaged.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is damaged ({error}); delete its folder") from error
    if not isinstance(value, dict):
        raise UsageError(f"{path} is damaged (no JSON object); delete its folder")
    return value


def plain_json(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as it reads from a file, tuples as lists.

    Raises:
        UsageError: a number is NaN or infinite.
    """
    for name, value in config.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{name} must be finite, got {value!r}")
    return json.loads(json.dumps(config, allow_nan=False))


def versions() -> dict[str, Any]:
    """Python, packages, GPU and, in a git checkout, the commit and whether it was modified."""
    found = {package: _version(package) for package in PACKAGES}
    cuda = torch.version.cuda if torch.cuda.is_available() else None
    commit = (
        _git("rev-parse", "HEAD") if _git("rev-parse", "--show-toplevel") == str(_HOME) else None
    )
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        **found,
        "cuda": cuda,
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "commit": commit,
        "modified": bool(_git("status", "--porcelain")) if commit else None,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(*command: str) -> str | None:
    try:
        out = subprocess.run(
            ["git", *command], cwd=_HOME, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return out.stdout.strip()


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and torch on every device."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (SB3's buffers draw from the global generator)
    torch.manual_seed(seed)


def resolve_device(device: str) -> torch.device:
    """The device for ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:<k>``.

    Raises:
        UsageError: the word is none of these, or names a GPU that is not there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    expected = f"device must be auto, cpu, cuda or cuda:<k>, got {device!r}"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UsageError(expected) from error
    if chosen.type == "cpu":
        return chosen
    if chosen.type != "cuda":
        raise UsageError(expected)
    if not torch.cuda.is_available():
        raise UsageError(f"device {device!r} asked for, but torch finds no CUDA GPU here")
    index = chosen.index or 0  # by number, so that one GPU has one name in every configuration
    if index >= torch.cuda.device_count():
        raise UsageError(
            f"device {device!r} asked for, but there are {torch.cuda.device_count()} GPUs here"
        )
    return torch.device("cuda", index)
