"""Files of tensors: written whole or not at all, read without running code from them."""

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

from wnrl.errors import UsageError


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Opens a file beside ``path`` for bytes; it is renamed to ``path`` once all are on disk.

    Raises:
        OSError: it cannot be written, and does not take up space; what was at ``path`` still is.
    """
    scratch = path.with_name(path.name + ".tmp")
    try:
        with scratch.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        scratch.unlink(missing_ok=True)
        raise
    scratch.replace(path)


def write_state(path: Path, state: Any) -> None:
    """Writes tensors, numbers, words and containers of them.

    Raises:
        OSError: as ``whole_file``.
    """
    with whole_file(path) as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch's own, when it could not end the file either
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def read_state(path: Path, kind: str, keys: Collection[str]) -> dict[str, Any]:
    """What ``write_state`` wrote, with tensors on the CPU.

    Args:
        path: the file.
        kind: what it should be, in words.
        keys: what is in one.

    Raises:
        UsageError: the file is damaged, or something else.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        if not (isinstance(found, dict) and found.keys() >= set(keys)):
            raise ValueError(f"it does not have {', '.join(keys)}")
    except Exception as error:  # zipfile's, pickle's and torch's own
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UsageError(f"{path} is damaged or no {kind}: {reason}") from error
    return found
