"""Parts of a study, for machines that share nothing but its folder, such as a Slurm array."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from wnrl.errors import UsageError
from wnrl.runs import locked
from wnrl.study.plan import Trial


@dataclass(frozen=True)
class Shard:
    """One of so many parts; the only one is the whole study."""

    number: int = 1
    """From 1."""
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Return the shard that a flag names as ``i/n``.

        Raises:
            UsageError: There is no such part.
        """
        words = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if not words or not 1 <= int(words[1]) <= int(words[2]):
            raise UsageError(f"shard must be i/n with i from 1 to n, such as 1/4, got {text!r}")
        return cls(int(words[1]), int(words[2]))

    @property
    def name(self) -> str:
        """Name in the study's folder."""
        return f"shard{self.number}of{self.count}"

    @property
    def log(self) -> str:
        """Begin the names of logs, where there are other shards."""
        return f"{self.name}-" if self.count > 1 else ""

    def of(self, trials: Sequence[Trial]) -> list[Trial]:
        """Return the trials of this part, in their order.

        The parts have no trial in common, and together have all. Of each task, and of each of its
        settings, they have equally many runs, or one more.
        """
        by_setting = sorted(trials, key=lambda trial: str(trial.folder.parent))
        dealt = {*by_setting[self.number - 1 :: self.count]}
        return [trial for trial in trials if trial in dealt]

    @contextmanager
    def held(self, root: Path) -> Iterator[None]:
        """Hold this part of a study's folder for this process, beside others of the same division.

        Enter it with the folder locked, which keeps other divisions from being entered meanwhile.

        Raises:
            UsageError: Another process has this part, or one of another division.
        """
        for path in root.glob(".shard*of*"):
            if not path.name.endswith(f"of{self.count}"):
                with locked(root, path.name):
                    pass
        with locked(root, f".{self.name}"):
            yield
