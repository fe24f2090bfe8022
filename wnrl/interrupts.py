"""Ctrl-C and SIGTERM end training where its state can be saved."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(SystemExit):
    """Training was stopped from outside, and what it had learned is saved.

    Attributes:
        code: the exit code that shells expect: 130 after Ctrl-C, 143 after SIGTERM.
        message: how far it came.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(128 + number)
        self.message = message


class Interrupts:
    """While entered, the first SIGINT or SIGTERM is only remembered; a second one acts at once.

    A signal that is ignored, as Ctrl-C in jobs in the background, stays ignored. Outside the main
    thread, which alone gets signals, it does nothing.

    Attributes:
        received: the number of the signal, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._hand_back()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._hand_back()
        if number == signal.SIGINT:  # print could be in the middle of another print
            os.write(2, b"stopping after this update; once more stops at once\n")

    def _hand_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
