"""One run from what its folder holds to its result: the loop that agents, VAEs and cohorts share.

Training calls back wherever its state may be taken. There a checkpoint is written when one is due,
and a signal ends the run. A checkpoint stands behind the last update too, so that a stop while the
result is measured loses nothing. ``result.json`` comes last.
"""

import errno
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from wnrl.errors import NonFiniteError, UsageError, printable
from wnrl.runs.events import EventFile
from wnrl.runs.files import read_values, write_values
from wnrl.runs.folder import CHECKPOINT, Run, open_run, read_result
from wnrl.runs.interrupts import Interrupts, Stopped
from wnrl.runs.machine import begin_peak_memory, peak_memory
from wnrl.runs.present import KIND, Present
from wnrl.runs.work import Batch, Meaning, Member, Options, Work

AS_USUAL = Options()
PROGRESS_SECONDS = 0.2
RARELY = 20  # checkpoints take no more than a twentieth of the time


class _Keeper:
    """Writes the checkpoints of a run, and its result.

    A checkpoint that cannot be written leaves the one before and training as they are, and is told.

    Args:
        run: The run in its folder.
        saved: Its checkpoint, where it goes on from one.
        work: What is trained.
        options: How it is carried out.
        started: When, by ``time.perf_counter``.

    Attributes:
        events: The event file, as it was when the run was saved.
        due: When the next checkpoint is, by ``time.monotonic``.
    """

    def __init__(
        self, run: Run, saved: Mapping[str, Any], work: Member, options: Options, started: float
    ) -> None:
        self.run, self.work, self.options = run, work, options
        self.started = started - saved.get("wall_time", 0.0)
        self.seconds = 60 * options.checkpoint_minutes
        self.due = time.monotonic() + self.seconds
        self.events = EventFile(run.path)
        if saved:
            self.events.cut(saved["events"])
            self.events.last.update(saved.get("last", {}))
        else:
            self.events.add_config(run.config)

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
            "last": self.events.last,
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

    def end(self, broken: NonFiniteError | None, files: tuple[str, ...]) -> None:
        """Measure what was trained, or say what was not finite, and write the result behind it."""
        run, work = self.run, self.work
        with _disk_in_words(run.path):
            try:
                if broken is not None:
                    raise broken
                result = {"status": "finished", **work.report(), **work.measure(run.path)}
            except NonFiniteError as error:
                result = {"status": "failed", "reason": printable(error, 500), **work.report()}
                with suppress(NonFiniteError):
                    self.save()
            cost = {"wall_time": self.wall_time, "memory_mib": peak_memory()}
            bad: list[str] = []
            result = _finite({**result, **cost, "diagnostics": self.events.diagnostics()}, bad)
            if bad and result["status"] == "finished":
                result |= {"status": "failed", "reason": bad[0]}
            scores = {tag: result[key] for tag, key in work.metrics.items() if key in result}
            self.events.add_hparams({**work.identity, **run.config}, scores, work.step)
            run.write_result(result, files)
        if not self.options.keep_checkpoint:
            (run.path / CHECKPOINT).unlink(missing_ok=True)


def _saved(keepers: Sequence[_Keeper]) -> bool:
    """Write checkpoints, one a run; return False where one failed.

    Raises:
        NonFiniteError: A run by itself is not finite; of several, those that are not are left out.
    """
    written = []
    for keeper in keepers:  # each, whatever the first did
        try:
            written.append(keeper.save())
        except NonFiniteError:
            if len(keepers) == 1:
                raise
    return all(written)


class _Alone:
    """A run that is trained by itself, as a batch of one."""

    def __init__(self, work: Work) -> None:
        self.members = (work,)

    def train(self, events: Sequence[EventFile], between: Callable[[], None]) -> None:
        self.members[0].train(events[0], between)


def carry_out(
    path: Path,
    settings: Mapping[str, Any],
    build: Callable[[], Work],
    meaning: Meaning,
    files: tuple[str, ...],
    options: Options = AS_USUAL,
    progress: Callable[[float], None] = lambda fraction: None,
    accepted: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Do a run, go on with one, or return the result of one that is finished.

    Args:
        path: The run's folder.
        settings: Every value that decides what the run does. Where ``device`` is ``auto`` or
            ``threads`` None, nothing is said, and what the run had is meant.
        build: Makes what is trained, and refuses what cannot be; nothing has been written then.
        meaning: What the settings say.
        files: Names that ``Work.measure`` writes.
        options: How it is carried out.
        progress: Called with the share that is done, a few times a second.
        accepted: Called once, when nothing can be refused any more.

    Returns:
        What ``result.json`` holds. ``status`` is ``finished``, or ``failed`` with a ``reason``;
        ``wall_time`` is everything, earlier parts of the run included, in seconds; ``memory_mib``
        the most that the process had since it went on, with whatever else it trained together;
        ``diagnostics`` are the last values of ``tags.DIAGNOSTICS``.

    Raises:
        UsageError: The run cannot be done; its folder is as it was.
        Stopped: A signal came; a checkpoint was written, unless its message says that it was not.
    """

    def alone(places: Sequence[int]) -> Batch:
        return _Alone(build())

    (result,) = carry_out_batch(
        [path], [settings], alone, meaning, files, options, progress, accepted
    )
    return result


def carry_out_batch(
    paths: Sequence[Path],
    settings: Sequence[Mapping[str, Any]],
    build: Callable[[Sequence[int]], Batch],
    meaning: Meaning,
    files: tuple[str, ...],
    options: Options = AS_USUAL,
    progress: Callable[[float], None] = lambda fraction: None,
    accepted: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """Do many runs together, each in a folder of its own, as ``carry_out`` does one.

    What is finished is not done again. Runs that were stopped go on from their checkpoints,
    together with those that were stopped at the same step. A run whose numbers become NaN fails
    alone.

    Args:
        paths: The runs' folders.
        settings: As ``carry_out`` has them, a run's each.
        build: Makes a batch of those runs whose places in ``paths`` it is given.
        meaning: As ``carry_out`` has it.
        files: As ``carry_out`` has it.
        options: How they are carried out.
        progress: Called with the share that is done, a few times a second.
        accepted: Called when no run, of those that go on together, can be refused any more.

    Returns:
        What each ``result.json`` holds, in the order of ``paths``.

    Raises:
        UsageError: A run cannot be done.
        Stopped: A signal came, as in ``carry_out``.
    """
    presents = [
        Present(path, each, meaning, options.resume)
        for path, each in zip(paths, settings, strict=True)
    ]
    together: dict[int, list[int]] = {}
    for place, present in enumerate(presents):
        if present.shows_result:
            may_change = ("extended_from",) if options.resume else ()
            with open_run(present.path, present.settings, may_change=may_change):
                accepted()
        else:
            checkpoint, step = present.path / CHECKPOINT, 0
            if options.resume and len(paths) > 1 and checkpoint.is_file():
                step = read_values(checkpoint, KIND)["step"]
            together.setdefault(step, []).append(place)
    for done, places in enumerate(together.values()):

        def share(fraction: float, done: int = done) -> None:
            progress((done + fraction) / len(together))

        started = time.perf_counter()
        begin_peak_memory()
        found = [presents[place] for place in places]
        _train_together(found, build(places), files, options, share, accepted, started)
    return [read_result(path) for path in paths]


def _train_together(
    presents: Sequence[Present],
    batch: Batch,
    files: tuple[str, ...],
    options: Options,
    progress: Callable[[float], None],
    accepted: Callable[[], None],
    started: float,
) -> None:
    with Interrupts() as interrupts, ExitStack() as stack:
        opened = [
            stack.enter_context(present.opened({**present.settings, **work.machine}, work, files))
            for present, work in zip(presents, batch.members, strict=True)
        ]
        accepted()
        if all(run.finished for run, _ in opened):  # by another process, while this one waited
            return
        keepers = [
            _Keeper(*begun, work, options, started)
            for begun, work in zip(opened, batch.members, strict=True)
        ]
        broken, how = None, "--resume measures again"
        try:
            batch.train([k.events for k in keepers], _pauses(keepers, interrupts, progress))
            if not _saved(keepers):
                how = "the last update is not saved"
        except NonFiniteError as error:
            broken = error
        with interrupts.at_once(f"stopped after the last step; {how}"):
            progress(1.0)
            for keeper in keepers:
                if not keeper.run.finished:
                    keeper.end(broken, files)


def _pauses(
    keepers: Sequence[_Keeper], interrupts: Interrupts, progress: Callable[[float], None]
) -> Callable[[], None]:
    """Return what training calls wherever its state may be taken."""
    work, shown = keepers[0].work, 0.0

    def between() -> None:
        nonlocal shown
        if interrupts.received is not None:
            how = "--resume goes on from here" if _saved(keepers) else "not saved"
            where = f"stopped at step {work.step} of {work.total_steps}"
            raise Stopped(interrupts.received, f"{where}; {how}")
        now = time.monotonic()
        if now >= max(keeper.due for keeper in keepers):
            _saved(keepers)
        if now - shown >= PROGRESS_SECONDS:
            shown = now
            progress(min(1.0, work.step / work.total_steps))

    return between


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


def _finite(value: Any, bad: list[str], name: str = "") -> Any:
    """Return a result without numbers that are NaN or infinite, which are named in ``bad``.

    Where such a number would stand, there is None in a list, and no entry in a mapping.
    """
    if isinstance(value, Mapping):
        named = {key: f"{name}.{key}" if name else str(key) for key in value}
        parts = {key: _finite(part, bad, named[key]) for key, part in value.items()}
        return {key: part for key, part in parts.items() if part is not bad}
    if isinstance(value, list | tuple):
        return [None if (one := _finite(part, bad, name)) is bad else one for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        bad.append(f"{name} is {value}")
        return bad  # a mark that nothing else is
    return value
