"""What every program does around its ``main``: parse flags, say what was wrong, exit.

It imports nothing that takes time, so that ``Args`` can be parsed before torch is imported.
"""

import contextlib
import io
import os
import select
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from scripts import _interrupt
from wnrl.errors import UsageError, check_positive

ArgsT = TypeVar("ArgsT")
STDOUT = 1  # the number of its file
MOST_THREADS = 1024  # torch ends in a segmentation fault where the system has no more


def begin(args_type: type[object], description: str | None) -> None:
    """Look at the flags before a program imports what takes seconds.

    Help and mistakes leave the process here. From now on Ctrl-C ends it without a word, until
    ``run`` catches it.
    """
    _interrupt.leave_at_ctrl_c()
    with _exit_codes():
        parse(args_type, description)


def run(
    main: Callable[[ArgsT], int | None],
    args_type: type[ArgsT],
    *,
    description: str | None = None,
    default: ArgsT | None = None,
    argv: Sequence[str] | None = None,
) -> None:
    """Parse ``argv`` into ``args_type``, call ``main`` and leave the process.

    Exit codes: what ``main`` returns (None is 0), 2 for a bad flag or value, 130 for Ctrl-C, that
    of ``Stopped``, which says why, 141 where nobody reads the output any more, as behind
    ``| head``.
    """
    with _exit_codes(), _interrupt.raised():
        code = main(parse(args_type, description, default, argv))
    sys.exit(code)


@contextlib.contextmanager
def _exit_codes() -> Iterator[None]:
    """Turn what a program raises into a line and an exit code."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # at exit, nothing could catch what it raises
    except UsageError as error:
        sys.exit(refused(error))
    except SystemExit as left:
        if message := getattr(left, "message", ""):  # of Stopped
            print(message, file=sys.stderr)
        raise
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(_interrupt.INTERRUPTED)
    except BrokenPipeError:
        if not _reader_left():  # it was another pipe: to a worker that died
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)
        sys.exit(141)


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[float], None]]:
    """Yield what moves a bar on stderr to a share of the work, from 0 to 1."""
    from tqdm import tqdm

    shape = "{l_bar}{bar}| {elapsed}<{remaining}"
    with tqdm(total=1.0, bar_format=shape, leave=False, disable=None, delay=1) as bar:

        def show(done: float) -> None:
            bar.update(done - bar.n)

        yield show


def check_threads(threads: int) -> None:
    """Raise UsageError where ``threads`` is no number of CPU threads that torch survives."""
    check_positive(threads=threads)
    if threads > MOST_THREADS:
        raise UsageError(f"threads must be at most {MOST_THREADS}, got {threads}")


def _reader_left() -> bool:
    output = select.poll()
    output.register(STDOUT, select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in output.poll(0))


def refused(error: UsageError) -> int:
    """Print what was wrong, and return the exit code for it."""
    print(f"error: {error}", file=sys.stderr)
    return 2


def parse(
    args_type: type[ArgsT],
    description: str | None = None,
    default: ArgsT | None = None,
    argv: Sequence[str] | None = None,
) -> ArgsT:
    """Return what ``argv`` says; leave the process if it asks for help.

    Raises:
        UsageError: a flag is malformed, or a check in ``args_type`` or below refused its value;
            tyro alone would print that in a box of many lines.
    """
    import tyro

    numbers = tyro.constructors.ConstructorRegistry()

    @numbers.primitive_rule
    def _whole_numbers(
        kind: tyro.constructors.PrimitiveTypeInfo,
    ) -> tyro.constructors.PrimitiveConstructorSpec[int] | None:
        return None if kind.type is not int else tyro.constructors.PrimitiveConstructorSpec(
            nargs=1, metavar="INT", instance_from_str=lambda texts: whole_number(texts[0]),
            is_instance=lambda value: isinstance(value, int), str_from_instance=lambda n: [str(n)],
        )  # fmt: skip

    words = sys.argv[1:] if argv is None else list(argv)
    if description and {"-h", "--help"} & set(words):
        print(_filled(description) + "\n")  # tyro wraps flags, but no paragraphs
    cli = partial(tyro.cli, args_type, args=words, description="", registry=numbers)
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            return cli() if default is None else cli(default=default)
    except SystemExit as left:
        if left.code in (0, None):
            raise
        cause = left.__context__
        while cause is not None and not isinstance(cause, UsageError):
            cause = cause.__context__
        raise (cause or UsageError(_one_line(told.getvalue()))) from None


def whole_number(text: str) -> int:
    """Return the number that ``text`` writes out, or as 1e6; raise ValueError if there is none."""
    with contextlib.suppress(ValueError):
        return int(text)
    with contextlib.suppress(ValueError):
        if "e" in text.lower() and float(text).is_integer():
            return int(float(text))
    raise ValueError(f"{text!r} is no whole number")


def _filled(description: str) -> str:
    """Return a docstring with its paragraphs as wide as the terminal; commands stay."""
    width = min(100, shutil.get_terminal_size().columns)
    paragraphs = description.strip().split("\n\n")
    return "\n\n".join(p if p[0] == " " else textwrap.fill(p, width) for p in paragraphs)


def _one_line(box: str) -> str:
    """Return what tyro's box says above its first rule, and the flag that it guesses was meant.

    Where the encoding of stdout has no lines to draw with, the box has no frame: then its title
    and a rule stand in front.
    """
    rows = [row.strip("│ ") for row in box.splitlines()]
    rules = [k for k, row in enumerate(rows) if set(row) in ({"─"}, {"-"})]
    ends = [k for k, row in enumerate(rows) if row.startswith("╭")] + rules
    said = " ".join(rows[ends[0] + 1 : ends[1]]).rstrip(".") if len(ends) > 1 else box.strip()
    guess = "Perhaps you meant:"
    if guess in rows:
        said += f"; did you mean {rows[rows.index(guess) + 1].split()[0].rstrip(',')}?"
    return f"{said}; --help lists all flags"
