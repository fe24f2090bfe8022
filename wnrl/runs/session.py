"""One run from what its folder holds to its result: the loop that agents, VAEs and cohorts share.

Training calls back wherever its state may be taken. There a checkpoint is written when one is due,
and a signal ends the run. A checkpoint stands behind the last update too, so that a stop while the
result is measured loses nothing. ``result.json`` comes last.
"""

import errno
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from wnrl.errors import NonFiniteError, UsageError, check_from_zero, printable
from wnrl.runs.events import EventFile
from wnrl.runs.files import read_values, write_values
from wnrl.runs.folder import (
    CHECKPOINT,
    CONFIG,
    Run,
    as_before,
    clear,
    differing,
    is_finished,
    open_run,
    plain_json,
    read_config,
    read_result,
)
from wnrl.runs.interrupts import Interrupts, Stopped

KIND = "checkpoint of a run"
WHERE = ("device", "threads", "compile", "extended_from")
"""Settings that may differ in a run that goes on: where, and from what it was extended."""
PROGRESS_SECONDS = 0.2
RARELY = 20  # checkpoints take no more than a twentieth of the time


class Work(Protocol):
    """What is trained; built for a run, and not yet at any step."""

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

    def train(self, events: EventFile, between: Callable[[], None]) -> None:
        """Train to the last step, calling ``between`` wherever the state may be taken.

        Raises:
            NonFiniteError: Something became NaN or infinite.
        """

    def report(self) -> dict[str, Any]:
        """Return what the result has of training, be it ended or failed."""

    def measure(self, folder: Path) -> dict[str, Any]:
        """Write the trained model's files into ``folder`` and return what else the result has.

        It may be stopped anywhere and called again.

        Raises:
            NonFiniteError: Something that is measured is NaN or infinite.
        """


@dataclass(frozen=True)
class Length:
    """How the settings of a run say how long it is."""

    keys: tuple[str, ...]
    """Which of them do."""
    steps: Callable[[Mapping[str, Any]], int]
    """From settings to steps."""


@dataclass(frozen=True)
class Options:
    """How a run is carried out, which does not change what it gives."""

    resume: bool = False
    """Go on where the run in the folder was stopped, or to more steps; begin if there is none."""
    checkpoint_minutes: float = 10.0
    """Time between checkpoints; longer where they take long to write."""
    keep_checkpoint: bool = True
    """Leave the last one in a finished run, which can then be extended."""

    def __post_init__(self) -> None:
        check_from_zero(checkpoint_minutes=self.checkpoint_minutes)


def carry_out(
    path: Path,
    settings: Mapping[str, Any],
    build: Callable[[], Work],
    length: Length,
    files: tuple[str, ...],
    options: Options = Options(),
    progress: Callable[[float], None] = lambda fraction: None,
    accepted: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Do a run, go on with one, or return the result of one that is finished.

    Args:
        path: The run's folder.
        settings: Every value that decides what the run does. Where ``device`` is ``auto`` or
            ``threads`` None, nothing is said, and what the run had is meant.
        build: Makes what is trained, and refuses what cannot be; nothing has been written then.
        length: Which of the settings say how long.
        files: Names that ``Work.measure`` writes.
        options: How it is carried out.
        progress: Called with the share that is done, a few times a second.
        accepted: Called once, when nothing can be refused any more.

    Returns:
        What ``result.json`` holds. ``status`` is ``finished``, or ``failed`` with a ``reason``;
        ``wall_time`` is everything, earlier parts of the run included, in seconds.

    Raises:
        UsageError: The run cannot be done; its folder is as it was.
        Stopped: A signal came; a checkpoint was written, unless its message says that it was not.
    """
    started = time.perf_counter()
    present = _Present.of(path, settings, length, options.resume)
    if present.shows_result:
        may_change = ("extended_from",) if options.resume else ()
        with open_run(path, present.settings, may_change=may_change):
            accepted()
            return read_result(path)
    work = build()
    settings = {**settings, **work.machine}
    with Interrupts() as interrupts, present.opened(settings, work, files) as (run, saved):
        accepted()
        if run.finished:  # by another process, while this one was waiting for the folder
            return read_result(path)
        events = EventFile(path)
        if saved:
            events.cut(saved["events"])
        keeper = _Keeper(run, work, events, options, started - saved.get("wall_time", 0.0))
        shown = 0.0

        def between() -> None:
            nonlocal shown
            if interrupts.received is not None:
                how = "--resume goes on from here" if keeper.save() else "not saved"
                where = f"stopped at step {work.step} of {work.total_steps}"
                raise Stopped(interrupts.received, f"{where}; {how}")
            now = time.monotonic()
            if now >= keeper.due:
                keeper.save()
            if now - shown >= PROGRESS_SECONDS:
                shown = now
                progress(min(1.0, work.step / work.total_steps))

        result: dict[str, Any] = {"status": "finished"}
        try:
            work.train(events, between)
            how = "--resume measures again" if keeper.save() else "the last update is not saved"
            with interrupts.at_once(f"stopped after the last step; {how}"), _disk_in_words(path):
                progress(1.0)
                result |= work.report() | work.measure(path)
        except NonFiniteError as error:
            result = {"status": "failed", "reason": printable(error, 500)} | work.report()
            keeper.save_if_finite()
        result = _finite({**result, "wall_time": keeper.wall_time})
        scores = {tag: result[key] for tag, key in work.metrics.items() if key in result}
        events.add_hparams({**work.identity, **run.config}, scores, work.step)
        events.close()
        with _disk_in_words(path):
            run.write_result(result, files)
        if not options.keep_checkpoint:
            (path / CHECKPOINT).unlink(missing_ok=True)
        return read_result(path)


@contextmanager
def _disk_in_words(path: Path) -> Iterator[None]:
    """Raise UsageError where the disk is full, or may no longer be written."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG):
            raise
        raise UsageError(
            f"run_dir {path}: {printable(error.strerror)}; the same command with --resume goes on"
        ) from error


class _Keeper:
    """Writes the checkpoints of a run.

    A checkpoint that cannot be written leaves the one before and training as they are, and is told.

    Attributes:
        due: When the next one is, by ``time.monotonic``.
    """

    def __init__(
        self, run: Run, work: Work, events: EventFile, options: Options, started: float
    ) -> None:
        self.run, self.work, self.events, self.started = run, work, events, started
        self.seconds = 60 * options.checkpoint_minutes
        self.due = time.monotonic() + self.seconds

    @property
    def wall_time(self) -> float:
        """Seconds since the run began, without those in which it was stopped."""
        return time.perf_counter() - self.started

    def save(self) -> bool:
        """Write a checkpoint; return False where that failed.

        Raises:
            NonFiniteError: What is trained is not finite; the checkpoint before stays.
        """
        began = time.monotonic()
        values = {
            "step": self.work.step,
            "work": self.work.state(),
            "events": self.events.size,
            "wall_time": self.wall_time,
        }
        try:
            write_values(self.run.path / CHECKPOINT, KIND, values)
        except OSError as error:
            print(f"no checkpoint at step {self.work.step}: {printable(error)}", file=sys.stderr)
            return False
        finally:
            cost = time.monotonic() - began
            self.due = began + max(self.seconds, RARELY * cost if self.seconds else 0.0)
        return True

    def save_if_finite(self) -> None:
        """Write a checkpoint of a run that failed, where its state is one that was finite."""
        try:
            self.save()
        except NonFiniteError:
            return


@dataclass(frozen=True)
class _Present:
    """A folder as a call finds it, and what the call means there."""

    path: Path
    settings: Mapping[str, Any]
    """As they were asked for, with the run's own device and threads where none are given."""
    earlier: Mapping[str, Any]
    """The configuration of the run that the folder has; empty where there is none."""
    length_keys: tuple[str, ...]
    steps: int
    ended: int
    """Steps that are asked for, and steps that the run was to have."""
    resume: bool

    @classmethod
    def of(
        cls, path: Path, settings: Mapping[str, Any], length: Length, resume: bool
    ) -> "_Present":
        """Look into ``path``.

        Raises:
            UsageError: The run there is damaged, of another program, or wants ``resume``.
        """
        settings, earlier = plain_json(settings), read_config(path)
        if earlier and not earlier.keys() >= set(length.keys):
            raise UsageError(
                f"run_dir {path} holds no run of this program: its {CONFIG} has no "
                f"{' and no '.join(length.keys)}; choose another folder"
            )
        settings = as_before(settings, earlier)
        steps = length.steps(settings)
        ended = length.steps(earlier) if earlier else steps
        present = cls(path, settings, earlier, length.keys, steps, ended, resume)
        present._check_intention()
        return present

    @property
    def shows_result(self) -> bool:
        """Whether the run is finished and the call asks for no more."""
        return is_finished(self.path) and not (self.resume and self.steps > self.ended)

    def _check_intention(self) -> None:
        path, finished = self.path, is_finished(self.path)
        if not self.earlier:
            return
        can_go_on = (path / CHECKPOINT).is_file()
        if self.resume:
            if finished and self.steps > self.ended:
                if read_result(path).get("status") != "finished":
                    raise UsageError(f"run_dir {path} holds a run that failed; it cannot go on")
                if not can_go_on:
                    raise UsageError(
                        f"run_dir {path} has no {CHECKPOINT}, from which it could go on"
                    )
            return
        others = differing(self.earlier, self.settings)
        if finished and others and others <= {*self.length_keys} and self.steps > self.ended:
            raise UsageError(
                f"run_dir {path} holds a finished run of {self.ended} steps; --resume extends it "
                f"to {self.steps}"
            )
        if not finished and not others and can_go_on:
            step = read_values(path / CHECKPOINT, KIND)["step"]
            raise UsageError(
                f"run_dir {path} holds a run that was stopped at step {step} of {self.steps}: "
                "--resume goes on from there; to begin anew, choose another folder"
            )

    @contextmanager
    def opened(
        self, settings: Mapping[str, Any], work: Work, files: tuple[str, ...]
    ) -> Iterator[tuple[Run, dict[str, Any]]]:
        """Open the folder for ``work``, which gets the state of the checkpoint if it goes on.

        Yields:
            The run, and what its checkpoint holds; nothing where it begins.

        Raises:
            UsageError: The folder or its checkpoint cannot be used; nothing in it has changed.
        """
        checkpoint = self.path / CHECKPOINT
        if not (self.resume and self.earlier and checkpoint.is_file()):
            with open_run(self.path, settings, files=files) as run:
                if self.resume and not run.finished:
                    begins = "nothing to resume, the run begins"
                    print(f"run_dir {self.path} has no {CHECKPOINT}: {begins}", file=sys.stderr)
                yield run, {}
            return
        longer = self.steps > self.ended
        if extended := [*self.earlier.get("extended_from", []), *([self.ended] if longer else [])]:
            settings = {**settings, "extended_from": extended}
        may_change = (*self.length_keys, *WHERE) if self.steps >= self.ended else ()
        with open_run(self.path, settings, may_change=may_change) as run:
            if run.finished and not longer:
                yield run, {}
                return
            saved = read_values(checkpoint, KIND)
            told = [f"resumed at step {saved['step']} of {self.steps}"]
            try:
                clause = work.restore(saved["work"])
            except (KeyError, ValueError, TypeError, RuntimeError, AttributeError, IndexError) as e:
                reason = printable(e) or type(e).__name__
                raise UsageError(f"checkpoint {checkpoint} is of another model: {reason}") from e
            run.begin()
            clear(self.path, files)
            if longer:
                told.append(f"schedules are over all {self.steps} steps, not over {self.ended}")
            print("; ".join([*told, *([clause] if clause else [])]), file=sys.stderr)
            yield run, saved


def _finite(result: dict[str, Any]) -> dict[str, Any]:
    """Return ``result``, as one of a failed run if a number in it is NaN or infinite.

    Where such a number would stand, there is None in a list, and no entry in a mapping.
    """
    bad: list[str] = []

    def plain(value: Any, name: str) -> Any:
        if isinstance(value, Mapping):
            named = {key: f"{name}.{key}" if name else str(key) for key in value}
            parts = {key: plain(part, named[key]) for key, part in value.items()}
            return {key: part for key, part in parts.items() if part is not bad}
        if isinstance(value, list | tuple):
            listed = [plain(part, name) for part in value]
            return [None if part is bad else part for part in listed]
        if isinstance(value, float) and not math.isfinite(value):
            bad.append(f"{name} is {value}")
            return bad  # a mark that nothing else is
        return value

    cleaned: dict[str, Any] = plain(result, "")
    if bad and cleaned["status"] == "finished":
        cleaned |= {"status": "failed", "reason": bad[0]}
    return cleaned
