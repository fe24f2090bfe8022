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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wnrl.errors import NonFiniteError, UsageError, printable
from wnrl.runs.events import EventFile
from wnrl.runs.files import read_values, write_values
from wnrl.runs.folder import CHECKPOINT, Run, is_finished, open_run, read_result
from wnrl.runs.interrupts import Interrupts, Stopped
from wnrl.runs.machine import begin_peak_memory, peak_memory
from wnrl.runs.present import KIND, Present
from wnrl.runs.work import Batch, Meaning, Member, Options, Steps, Work

AS_USUAL = Options()
PROGRESS_SECONDS = 0.2
RARELY = 20  # checkpoints take no more than a twentieth of the time


class _Keeper:
    """Writes the checkpoints of a run.

    A checkpoint that cannot be written leaves the one before and training as they are, and is told.

    Attributes:
        due: When the next one is, by ``time.monotonic``.
    """

    def __init__(
        self, run: Run, work: Member, events: EventFile, options: Options, started: float
    ) -> None:
        self.run, self.work, self.events, self.started = run, work, events, started
        self.options = options
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

    def save_if_finite(self) -> bool:
        """Write a checkpoint, unless what is trained is not finite; return False if that failed."""
        try:
            return self.save()
        except NonFiniteError:
            return True


@dataclass(frozen=True)
class _Together:
    """Writes the checkpoints of a batch, one a run; those of runs that became NaN stay."""

    keepers: Sequence[_Keeper]

    @property
    def due(self) -> float:
        return max(keeper.due for keeper in self.keepers)

    def save(self) -> bool:
        saved = [keeper.save_if_finite() for keeper in self.keepers]  # each, whatever the first did
        return all(saved)


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
    started = time.perf_counter()
    begin_peak_memory()
    present = Present.of(path, settings, meaning, options.resume)
    if present.shows_result:
        may_change = ("extended_from",) if options.resume else ()
        with open_run(path, present.settings, may_change=may_change):
            accepted()
            return read_result(path)
    work = build()
    settings = {**present.settings, **work.machine}
    with Interrupts() as interrupts, present.opened(settings, work, files) as (run, saved):
        accepted()
        if run.finished:  # by another process, while this one was waiting for the folder
            return read_result(path)
        events = _events(path, saved, run.config)
        keeper = _Keeper(run, work, events, options, started - saved.get("wall_time", 0.0))
        result: dict[str, Any] = {"status": "finished"}
        try:
            work.train(events, _pauses(work, keeper, interrupts, progress))
            how = "--resume measures again" if keeper.save() else "the last update is not saved"
            with interrupts.at_once(f"stopped after the last step; {how}"), _disk_in_words(path):
                progress(1.0)
                result |= work.report() | work.measure(path)
        except NonFiniteError as error:
            result = _failed(error) | work.report()
            keeper.save_if_finite()
        return _ended(run, work, keeper, result, files)


def carry_out_batch(
    paths: Sequence[Path],
    settings: Sequence[Mapping[str, Any]],
    build: Callable[[Sequence[int]], Batch],
    meaning: Meaning,
    files: tuple[str, ...],
    options: Options = AS_USUAL,
    progress: Callable[[float], None] = lambda fraction: None,
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

    Returns:
        What each ``result.json`` holds, in the order of ``paths``.

    Raises:
        UsageError: A run cannot be done.
        Stopped: A signal came, as in ``carry_out``.
    """
    together: dict[int, list[int]] = {}
    for place, path in enumerate(paths):
        if not is_finished(path):
            together.setdefault(_saved_step(path) if options.resume else 0, []).append(place)
    for done, places in enumerate(together.values()):

        def share(fraction: float, done: int = done) -> None:
            progress((done + fraction) / len(together))

        _carry_out_together(
            [paths[i] for i in places],
            [settings[i] for i in places],
            build(places),
            meaning,
            files,
            options,
            share,
        )
    return [read_result(path) for path in paths]


def _carry_out_together(
    paths: Sequence[Path],
    settings: Sequence[Mapping[str, Any]],
    batch: Batch,
    meaning: Meaning,
    files: tuple[str, ...],
    options: Options,
    progress: Callable[[float], None],
) -> None:
    started = time.perf_counter()
    begin_peak_memory()
    with Interrupts() as interrupts, ExitStack() as stack:
        keepers = []
        for path, values, member in zip(paths, settings, batch.members, strict=True):
            present = Present.of(path, values, meaning, options.resume)
            opened = present.opened({**present.settings, **member.machine}, member, files)
            run, saved = stack.enter_context(opened)
            events = _events(path, saved, run.config)
            before = saved.get("wall_time", 0.0)
            keepers.append(_Keeper(run, member, events, options, started - before))
        keeper = _Together(keepers)
        batch.train([k.events for k in keepers], _pauses(batch, keeper, interrupts, progress))
        how = "--resume measures again" if keeper.save() else "the last update is not saved"
        with interrupts.at_once(f"stopped after the last step; {how}"):
            for k in keepers:
                if k.run.finished:  # by another process, while this one was waiting for the folder
                    continue
                with _disk_in_words(k.run.path):
                    try:
                        result = {"status": "finished", **k.work.report()}
                        result |= k.work.measure(k.run.path)
                    except NonFiniteError as error:
                        result = _failed(error) | k.work.report()
                _ended(k.run, k.work, k, result, files)


def _saved_step(path: Path) -> int:
    """Return the step of a folder's checkpoint; 0 where there is none."""
    checkpoint = path / CHECKPOINT
    return int(read_values(checkpoint, KIND)["step"]) if checkpoint.is_file() else 0


def _pauses(
    work: Steps,
    keeper: _Keeper | _Together,
    interrupts: Interrupts,
    progress: Callable[[float], None],
) -> Callable[[], None]:
    """Return what training calls wherever its state may be taken."""
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

    return between


def _failed(error: NonFiniteError) -> dict[str, Any]:
    return {"status": "failed", "reason": printable(error, 500)}


def _ended(
    run: Run, work: Member, keeper: _Keeper, result: dict[str, Any], files: tuple[str, ...]
) -> dict[str, Any]:
    """Write the result, behind everything else, and return it as it reads."""
    cost = {"wall_time": keeper.wall_time, "memory_mib": peak_memory()}
    result = _finite({**result, **cost, "diagnostics": keeper.events.diagnostics()})
    scores = {tag: result[key] for tag, key in work.metrics.items() if key in result}
    keeper.events.add_hparams({**work.identity, **run.config}, scores, work.step)
    keeper.events.close()
    with _disk_in_words(run.path):
        run.write_result(result, files)
    if not keeper.options.keep_checkpoint:
        (run.path / CHECKPOINT).unlink(missing_ok=True)
    return read_result(run.path)


def _events(path: Path, saved: Mapping[str, Any], config: Mapping[str, Any]) -> EventFile:
    """Return the event file of a run that begins, or as it was when the run was saved."""
    events = EventFile(path)
    if saved:
        events.cut(saved["events"])
        events.last.update(saved.get("last", {}))
    else:
        events.add_config(config)
    return events


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
