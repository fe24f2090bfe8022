"""What every program does around its ``main``: parse flags, say what was wrong, exit.

It imports nothing that takes time, so that ``Args`` can be parsed before torch is imported.
"""

import contextlib
import io
import os
import re
import select
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from scripts import _interrupt, _lists
from wnrl.errors import NonFiniteError, UsageError

ArgsT = TypeVar("ArgsT")
STDOUT = 1  # the number of its file
CHECKOUT = Path(__file__).resolve().parents[1]
SHARED = f"""Every program also takes --import <module>, which may be repeated: a module of your
own, installed or in the current folder, that adds norms, algorithms, environments, data or VAEs;
and --list <what>, which shows its words: {", ".join(_lists.LISTS)}."""


def excepthook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Tell of a package that is missing in a line; of anything else as Python does."""
    if isinstance(error, ModuleNotFoundError) and (told := missing(error)):
        sys.exit(refused(told))
    sys.__excepthook__(kind, error, trace)


def begin(args_type: type[object], description: str | None) -> None:
    """Look at the flags before a program imports what takes seconds.

    Help and mistakes leave the process here.
    """
    with _exit_codes():
        parse(args_type, description)


def run(
    main: Callable[[ArgsT], int | None],
    args_type: type[ArgsT],
    *,
    description: str | None = None,
    default: Callable[[Sequence[str]], ArgsT] | None = None,
    argv: Sequence[str] | None = None,
) -> None:
    """Parse ``argv`` into ``args_type``, call ``main`` and leave the process.

    ``default`` returns, of the flags, the arguments that those that are not given have.

    Exit codes: what ``main`` returns (None is 0), 1 for a number that is not finite, 2 for a bad
    flag or value, 130 for Ctrl-C, that of ``Stopped``, which says why, 141 where nobody reads the
    output any more, as behind ``| head``.
    """
    with _exit_codes(), _interrupt.raised():
        code = main(parse(args_type, description, default, argv))
    sys.exit(code)


@contextlib.contextmanager
def _exit_codes() -> Iterator[None]:
    """Turn what a program raises into a line and an exit code."""
    with contextlib.suppress(AttributeError):  # names of files may be no text
        sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # at exit, nothing could catch what it raises
    except UsageError as error:
        sys.exit(refused(error))
    except NonFiniteError as error:
        print(f"failed: {error}")
        sys.exit(1)
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
    except OSError as error:  # a disk that is full, a folder that is gone or may not be written
        if error.errno is None or isinstance(error, ConnectionError):
            raise
        place = error.filename or "a file could not be written"
        sys.exit(refused(UsageError(f"{place}: {error.strerror}")))


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[float], None]]:
    """Yield what moves a bar on stderr to a share of the work, from 0 to 1."""
    from tqdm import tqdm

    shape = "{l_bar}{bar}| {elapsed}<{remaining}"
    with tqdm(total=1.0, bar_format=shape, leave=False, disable=None, delay=1) as bar:

        def show(done: float) -> None:
            bar.update(done - bar.n)

        yield show


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
    default: Callable[[Sequence[str]], ArgsT] | None = None,
    argv: Sequence[str] | None = None,
) -> ArgsT:
    """Return what ``argv`` says; leave the process if it asks for help or a list.

    Raises:
        UsageError: a flag is malformed, or a check in ``args_type`` or below refused its value;
            tyro alone would print that in a box of many lines.
    """
    import tyro

    words = sys.argv[1:] if argv is None else list(argv)
    modules, words = _taken(words, "--import")
    if modules:
        from wnrl.study.execute import imported

        if str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))
        for name in modules:
            imported(name, f"--import {name!r}")
    lists, words = _taken(words, "--list")
    for what in lists:
        print(*_lists.listed(what), sep="\n")
    if lists:
        sys.exit(0)
    defaults: Any = {} if default is None else {"default": default(words)}

    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def _whole_numbers(kind: Any) -> Any:
        return None if kind.type is not int else tyro.constructors.PrimitiveConstructorSpec(
            nargs=1, metavar="INT", instance_from_str=lambda texts: whole_number(texts[0]),
            is_instance=lambda value: isinstance(value, int), str_from_instance=lambda n: [str(n)],
        )  # fmt: skip

    @registry.primitive_rule
    def _keyword_arguments(kind: Any) -> Any:
        # tyro itself has a flag for each key of a default, as that of a resumed run has some
        return None if kind.type_origin is not dict else tyro.constructors.PrimitiveConstructorSpec(
            nargs="*", metavar="[NAME VALUE ...]", instance_from_str=keyword_arguments,
            is_instance=lambda value: isinstance(value, dict),
            str_from_instance=lambda pairs: [str(word) for pair in pairs.items() for word in pair],
        )  # fmt: skip

    if description and {"-h", "--help"} & set(words):
        print(_filled(f"{description.strip()}\n\n{SHARED}") + "\n")  # tyro wraps no paragraphs
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            return tyro.cli(args_type, args=words, description="", registry=registry, **defaults)
    except SystemExit as left:
        if left.code in (0, None):
            raise
        cause = left.__context__
        while cause is not None and not isinstance(cause, UsageError):
            cause = cause.__context__
        raise (cause or UsageError(_one_line(told.getvalue()))) from None


def scanned(argv: Sequence[str], names: Iterable[str]) -> Any:
    """Return the values of flags that decide what others mean, and of --help and --resume.

    A flag that is not there is None, one without a value "". Nothing is refused: tyro tells of a
    value that --help or --resume has.
    """
    import argparse  # which takes time, in which Ctrl-C would be a traceback

    scan = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in names:
        scan.add_argument(f"--{name.replace('_', '-')}", f"--{name}", nargs="?", const="")
    scan.add_argument("--help", "-h", action="store_true")
    scan.add_argument("--resume", action=argparse.BooleanOptionalAction)
    return scan.parse_known_args(
        [word for word in argv if not re.match("--(help|(no-)?resume)=|-h.", word)]
    )[0]


def scanned_number(text: str | None) -> int | None:
    """Return the number that a scanned flag has, None where there is none: tyro tells of those."""
    with contextlib.suppress(ValueError):
        return whole_number(text or "")
    return None


def _taken(words: Sequence[str], flag: str) -> tuple[list[str], list[str]]:
    """Return what stands behind ``flag``, wherever it is among ``words``, and the other words."""
    values, others, rest = [], [], iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if name == flag:
            values.append(value if equals else next(rest, ""))
        else:
            others.append(word)
    return values, others


def imports(argv: Sequence[str]) -> list[str]:
    """Return the modules that ``--import`` names, for processes that have to import them too."""
    return _taken(argv, "--import")[0]


def missing(error: ModuleNotFoundError) -> UsageError | None:
    """Return what to do about a package that wnrl or one of its extras needs; None for others."""
    import importlib.metadata as installed

    module = str(error.name).partition(".")[0]
    environment = CHECKOUT / ".venv"
    # Not the checkout's, which tells of what was installed for some other Python.
    places = [place for place in sys.path if Path(place).resolve() != CHECKOUT]
    ours = next(iter(installed.distributions(name="wnrl", path=places)), None)
    if ours is None:
        made = (environment / "bin" / "python").is_file()
        install = f"pip install -e '{CHECKOUT}[lab]'"
        remedy = f"source {environment}/bin/activate" if made else install
        return UsageError(f"{sys.executable} has no {module}, which wnrl needs: {remedy}")
    for need in ours.requires or []:
        name, extra = re.match(r"[\w.-]+", need), re.search(r"extra == ['\"](\w+)", need)
        if name and name[0].replace("-", "_").lower() == module.lower():
            what = f"wnrl[{extra[1]}]" if extra else "wnrl"
            return UsageError(f"{module} is missing: pip install '{what}'")
    return None


def as_pasted(program: str) -> str:
    """Return what a shell finds a program of this Python's environment by: its name, or its path.

    It is the path where the environment is not active.
    """
    beside = Path(sys.executable).with_name(program)
    return str(beside) if beside.is_file() and shutil.which(program) != str(beside) else program


def free_port(first: int = 6006) -> int:
    """Return a port of this machine that nobody listens at, the first one from ``first`` on."""
    import socket  # as above

    for port in range(first, 2**16):
        with contextlib.suppress(OSError), socket.create_server(("localhost", port)):
            return port
    return first


def activation() -> str | None:
    """Return the command that makes this Python the shell's; None where it is, or there is none."""
    script = Path(sys.executable).with_name("activate")
    active = as_pasted("python") == "python" or not script.is_file()
    return None if active else f"source {shlex.quote(str(script))}"


def whole_number(text: str) -> int:
    """Return the number that ``text`` writes out, or as 1e6; raise ValueError if there is none.

    What arrays cannot count, numbers of more than 64 bits, is none.
    """
    with contextlib.suppress(ValueError, OverflowError):
        number = float(text) if "e" in text.lower() else int(text)
        if number == int(number) and -(2**63) <= number < 2**63:
            return int(number)
    raise ValueError(f"{text!r} is no whole number")


def keyword_arguments(words: Sequence[str]) -> dict[str, object]:
    """Return what names and values, in turn, write out; raise ValueError if a value is missing."""
    if len(words) % 2:
        raise ValueError(f"{words[-1]!r} has no value: write NAME VALUE")
    return dict(zip(words[::2], map(_value, words[1::2]), strict=True))


def _value(text: str) -> object:
    """Return the truth value or the number that ``text`` writes out, else the text."""
    if text in ("True", "False"):
        return text == "True"
    for number in (whole_number, float):
        with contextlib.suppress(ValueError):
            return number(text)
    return text


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
    said = re.sub(r"no type matching .*[\]>]: ", "", said)  # one for each type of a union
    of_many = "Could not find valid parse for arguments:"
    said = said.replace(of_many, "values must stand apart, as in 64 64, got")
    guess = "Perhaps you meant:"
    if guess in rows:
        said += f"; did you mean {rows[rows.index(guess) + 1].split()[0].rstrip(',')}?"
    return f"{said}; --help lists all flags"
