"""What every program does around its ``main``: parse flags, say what was wrong, exit."""

import contextlib
import io
import os
import select
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro

from scripts import _interrupt
from wnrl.errors import UsageError, check_positive

ArgsT = TypeVar("ArgsT")
STDOUT = 1  # the number of its file
MOST_THREADS = 1024  # torch ends in a segmentation fault where the system has no more


def run(
    main: Callable[[ArgsT], int | None],
    args_type: type[ArgsT],
    *,
    description: str | None = None,
    default: ArgsT | None = None,
    argv: Sequence[str] | None = None,
) -> None:
    """Parses ``argv`` into ``args_type``, calls ``main`` and leaves the process.

    Exit codes: what ``main`` returns (None is 0), 2 for a bad flag or value, 130 for Ctrl-C, 141
    where nobody reads the output any more, as behind ``| head``.
    """
    try:
        with _interrupt.raised():
            try:
                code = main(parse(args_type, description, default, argv))
            finally:
                sys.stdout.flush()  # at exit, nothing could catch what it raises
    except UsageError as error:
        code = refused(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = _interrupt.INTERRUPTED
    except BrokenPipeError:
        if not _reader_left():  # it was another pipe: to a worker that died
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)
        code = 141
    sys.exit(code)


def check_threads(threads: int) -> None:
    """Raises UsageError where ``threads`` is no number of CPU threads that torch survives."""
    check_positive(threads=threads)
    if threads > MOST_THREADS:
        raise UsageError(f"threads must be at most {MOST_THREADS}, got {threads}")


def _reader_left() -> bool:
    output = select.poll()
    output.register(STDOUT, select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in output.poll(0))


def refused(error: UsageError) -> int:
    """Prints what was wrong, and returns the exit code for it."""
    print(f"error: {error}", file=sys.stderr)
    return 2


def parse(
    args_type: type[ArgsT],
    description: str | None,
    default: ArgsT | None,
    argv: Sequence[str] | None,
) -> ArgsT:
    """What ``argv`` says; leaves the process if it asks for help.

    Raises:
        UsageError: a flag is malformed, or a check in ``args_type`` or below refused its value;
            tyro alone would print that in a box of many lines.
    """
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            if default is None:
                return tyro.cli(args_type, args=argv, description=description)
            return tyro.cli(args_type, args=argv, description=description, default=default)
    except SystemExit as left:
        if left.code in (0, None):
            raise
        cause = left.__context__
        while cause is not None and not isinstance(cause, UsageError):
            cause = cause.__context__
        raise (cause or UsageError(_one_line(told.getvalue()))) from None


def _one_line(box: str) -> str:
    """What tyro's box says above its first rule, and the flag that it guesses was meant.

    Where the encoding of stdout has no lines to draw with, the box has no frame: then its title
    and a rule stand in front.
    """
    rows = [row.strip("│ ") for row in box.splitlines()]
    rules = [k for k, row in enumerate(rows) if set(row) in ({"─"}, {"-"})]
    ends = [k for k, row in enumerate(rows) if row.startswith("╭")] + rules
    said = " ".join(rows[ends[0] + 1 : ends[1]]).rstrip(".") if len(ends) > 1 else box.strip()
    guess = "Perhaps you meant:"
    if guess in rows:
        said += f"; did you mean {rows[rows.index(guess) + 1].split()[0]}?"
    return f"{said}; --help lists all flags"
