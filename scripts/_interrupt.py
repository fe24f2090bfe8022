"""Ctrl-C where nothing can catch it: while a program imports, which takes seconds, and at its end.

It imports nothing that takes time itself.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130  # the exit code that shells expect


def leave_at_ctrl_c() -> None:
    """From now on Ctrl-C ends the process without a word, where it would raise an exception.

    Where it is ignored, as in jobs in the background, it stays ignored.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


@contextmanager
def raised() -> Iterator[None]:
    """Inside, Ctrl-C raises KeyboardInterrupt, also after ``leave_at_ctrl_c``."""
    if signal.getsignal(signal.SIGINT) is not _leave:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, _leave)


def _leave(*_: object) -> None:
    os._exit(INTERRUPTED)
