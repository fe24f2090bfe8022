"""What every program does around its ``main``: parse flags, say what was wrong, exit."""

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro

from wnrl.errors import UsageError

ArgsT = TypeVar("ArgsT")


def run(
    main: Callable[[ArgsT], int | None],
    args_type: type[ArgsT],
    *,
    description: str | None = None,
    default: ArgsT | None = None,
    argv: Sequence[str] | None = None,
) -> None:
    """Parses ``argv`` into ``args_type``, calls ``main`` and leaves the process.

    Exit codes: what ``main`` returns (None is 0), 2 for a bad flag or value, 130 for Ctrl-C.
    """
    try:
        if default is None:
            args = tyro.cli(args_type, args=argv, description=description)
        else:
            args = tyro.cli(args_type, args=argv, description=description, default=default)
        code = main(args)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)
