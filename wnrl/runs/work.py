"""The contracts between the run stack and what is trained."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from wnrl.limits import FromZero, Limited
from wnrl.runs.events import EventFile


class Member(Protocol):
    """What one run saves, restores and measures; built for it, and not yet at any step."""

    machine: Mapping[str, Any]
    """``device`` and ``threads`` as they were settled."""
    identity: Mapping[str, Any]
    """``task`` and ``algo``, which stand beside the settings in TensorBoard's HParams tab."""
    metrics: Mapping[str, str]
    """From tags of that tab to keys of the result."""

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""

    @property
    def step(self) -> int:
        """Steps done."""

    def state(self) -> dict[str, Any]:
        """Return what ``restore`` takes, as ``write_values`` has it; NonFiniteError for a NaN."""

    def restore(self, state: Mapping[str, Any]) -> str:
        """Go to where ``state`` was taken; return a clause to be told, or an empty string."""

    def report(self) -> dict[str, Any]:
        """Return what the result has of training, be it ended or failed."""

    def measure(self, folder: Path) -> dict[str, Any]:
        """Write the trained model's files into ``folder`` and return what else the result has.

        It may be stopped anywhere and called again.

        Raises:
            NonFiniteError: Something that is measured is NaN or infinite.
        """


class Work(Member, Protocol):
    """A run that is trained by itself."""

    def train(self, events: EventFile, between: Callable[[], None]) -> None:
        """Train to the last step, calling ``between`` wherever the state may be taken.

        Raises:
            NonFiniteError: Something became NaN or infinite.
        """


class Batch(Protocol):
    """Runs that are trained together, step by step; what is not finite in one stays in it."""

    @property
    def members(self) -> Sequence[Member]:
        """The runs."""

    def train(self, events: Sequence[EventFile], between: Callable[[], None]) -> None:
        """Train to the last step, calling ``between`` wherever states may be taken.

        Args:
            events: Where the curves of each member go.
            between: As in ``Work``.
        """


@dataclass(frozen=True)
class Meaning:
    """What the settings of a run say to the run stack."""

    length_keys: tuple[str, ...]
    """Those that say how long it is."""
    steps: Callable[[Mapping[str, Any]], int]
    """From settings to steps."""
    defaults: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda settings: {}
    """From settings to what they are where nothing is said. A folder begun before there was a word
    for a setting counts as having that."""


@dataclass(frozen=True)
class Options(Limited):
    """How a run is carried out, which does not change what it gives."""

    resume: bool = False
    """Go on where the run in the folder was stopped, or to more steps; begin if there is none."""
    checkpoint_minutes: FromZero = 10.0
    """Time between checkpoints; longer where they take long to write."""
    keep_checkpoint: bool = True
    """Leave the last one in a finished run, which can then be extended."""


@dataclass(frozen=True)
class Batching:
    """How a run would be trained together with others that are like it."""

    refusal: str = ""
    """Why it cannot, and what it can, in one line; empty where it can."""
    members: int = 16
    """Runs that it takes at a time."""
    pays: bool = True
    """Whether that was measured to be faster than one process a run."""
