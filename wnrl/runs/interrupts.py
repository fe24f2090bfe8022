"""Ctrl-C, SIGTERM and SIGHUP end training where its state can be saved."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(SystemExit):
    """Training was stopped from outside.

    Attributes:
        code: The exit code that shells expect: 130 after Ctrl-C, 143 after SIGTERM.
        message: How far it came, and whether that is saved.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(128 + number)
        self.message = message


class Interrupts:
    """Remember the first signal inside of it; a second one acts as if this were not there.

    A signal that is ignored, as ``nohup`` has it, stays ignored. Outside the main thread, which
    alone receives signals, nothing is changed.

    Attributes:
        received: The number of the signal that came; None before.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._message: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    @contextmanager
    def at_once(self, message: str) -> Iterator[None]:
        """Raise Stopped with ``message`` wherever a signal comes, for what can be done again."""
        self._message = message
        try:
            if self.received is not None:
                raise Stopped(self.received, message)
            yield
        finally:
            self._message = None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self.__exit__()  # hands the signals back
        if self._message is not None:
            raise Stopped(number, self._message)
        if number == signal.SIGINT:  # print could be in the middle of another print
            os.write(2, b"stopping after this update; once more stops at once\n")
