"""Lay the verdicts of studies that were made again with other seeds side by side.

    python scripts/bench/verdicts.py runs/quick_0 runs/quick_100 runs/quick_200

Prints a line for each arm of a task, with how often each word was said, and counts the pairs of
studies of which one says better and the other worse: a verdict that turned round. The last line has
the share of studies with any better or worse: of equal arms each of those is false.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts import _cli

# From here on Ctrl-C and a package that is missing are taken care of.
# isort: split
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated

import tyro

from wnrl.errors import UsageError, as_usage_error, first_line
from wnrl.limits import Limited, limit


@dataclass(frozen=True)
class Args(Limited):
    """Counts verdicts."""

    studies: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        limit(lambda paths: len(paths) == len({*paths}) > 1, "two or more different folders"),
    ] = ()
    """Folders of two studies or more that differ in their seeds alone."""


if __name__ == "__main__":
    _cli.begin(Args, __doc__)  # before pandas is imported

import pandas as pd

from wnrl.study.folder import TABLE


def main(args: Args) -> None:
    """Print the counts."""
    words = pd.concat({str(path): _verdicts(path) for path in args.studies}, axis=1)
    counts = words.apply(lambda row: row.value_counts(), axis=1).fillna(0).astype(int)
    better, worse = (counts.get(word, pd.Series(0, counts.index)) for word in ("better", "worse"))
    counts["better meets worse"] = better * worse
    print(counts.to_string())
    pairs = list(combinations(words, 2))
    turned = [(words[a] + words[b]).isin(("betterworse", "worsebetter")).any() for a, b in pairs]
    print(f"pairs of studies in which a verdict turned round: {sum(turned)} of {len(pairs)}")
    said = words.isin(("better", "worse")).any()
    print(f"studies that say better or worse: {said.sum()} of {len(said)}")


def _verdicts(path: Path) -> "pd.Series[str]":
    """Return the words of a study, by task, algorithm and arm.

    Raises:
        UsageError: The folder has no table, or a damaged one, or one with axes.
    """
    if not (path / TABLE).is_file():
        raise UsageError(f"{path} has no {TABLE}: it is no folder of a finished study")
    what = f"{path / TABLE} is no table of a study"
    with as_usage_error(what, ValueError, KeyError, say=first_line):
        table = pd.read_csv(path / TABLE).dropna(subset="verdict")
        words = table.set_index(["task", "algo", "arm"])["verdict"]
    if not words.index.is_unique:
        raise UsageError(f"{path} has axes: an arm has more than one verdict there")
    return words


if __name__ == "__main__":
    _cli.run(main, Args, description=__doc__)
