"""Write one report on any folders of runs: of studies, of runs by themselves, finished or not.

    python scripts/report.py runs/quick runs/single

Nothing is trained, and nothing in the folders changes but the report.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts import _cli

# From here on Ctrl-C and a package that is missing are taken care of.
# isort: split
from dataclasses import dataclass
from typing import Annotated

import tyro

from wnrl.errors import UsageError


@dataclass(frozen=True)
class Args:
    """Writes a report on what is there."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Folders of studies and of runs, or that have such below them."""
    page: Path | None = None
    """Where to; report.html in the one folder, or in the current one, if not given."""
    baseline: str = "none"
    """The norm that runs of no study are compared with."""


def main(args: Args) -> None:
    """Read, summarise and write the page, whose path is the last line."""
    if not args.folders:
        raise UsageError("folders must have one entry or more, got none")
    for root in args.folders:
        if not root.is_dir():
            raise UsageError(f"{root} is no folder")
    from scripts._progress import show_tables
    from wnrl.study import folder, gathered, report

    roots = [root.absolute() for root in args.folders]
    studies = [part for root in roots for part in gathered.gather(root, args.baseline)]
    one = args.folders[0] if len(args.folders) == 1 else Path()
    page = (args.page or one / folder.REPORT).absolute()
    report.write_report(page, *studies)
    for part in studies:
        show_tables(part.rows)
        if part.pending:
            print(f"{part.name}: {part.pending}")
    print(f"report:  {page}")


if __name__ == "__main__":
    _cli.run(main, Args, description=__doc__)
