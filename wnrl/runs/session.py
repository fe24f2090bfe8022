"""One run from what its folder holds to its result: the loop that agents, VAEs and cohorts share.

Training calls back wherever its state may be taken. There a checkpoint is written when one is due,
and a signal ends the run. A checkpoint stands behind the last update too, so that a stop while the
result is measured loses nothing. ``result.json`` comes last.
"""

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from wnrl.errors import NonFiniteError, UsageError, as_usage_error, first_line, printable
from wnrl.limits import FromZero, Limited
from wnrl.runs import folder
from wnrl.runs.events import EventFile
from wnrl.runs.files import read_values, write_values
from wnrl.runs.machine import begin_peak_memory, peak_memory

KIND = "checkpoint of a run"
PROGRESS_SECONDS = 0.2
RARELY = 20  # checkpoints take no more than a twentieth of the time
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Progress = Callable[[float], None]
Settings = Mapping[str, Any]


class Stopped(SystemExit):
    """Training was stopped from outside.

    Attributes:
        code: The exit code that shells expect: 130 after Ctrl-C, 143 after SIGTERM.
        message: How far it came, and whether that is saved.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(128 + number)
        self.message = message


class Interrupts:
    """Remember the first signal inside of it; Ctrl-C after it acts as if this were not there.

    Other signals after the first change nothing: where a session ends, SIGTERM and SIGHUP come
    together, and what is being written should be. A signal that is ignored, as ``nohup`` has it,
    stays ignored. Outside the main thread, which alone receives signals, nothing is changed.

    Args:
        told: What the first Ctrl-C prints on stderr.

    Attributes:
        received: The number of the signal that came; None before.
    """

    def __init__(self, told: str = "stopping after this update; once more stops at once") -> None:
        self.told = told
        self.received: int | None = None
        self._message: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    @contextmanager
    def at_once(self, message: str) -> Iterator[None]:
        """Raise Stopped with ``message`` wherever a signal comes, for what can be done again."""
        self._message = message
        try:
            if self.received is not None:
                raise Stopped(self.received, message)
            yield
        finally:
            self._message = None

    def _receive(self, number: int, *_: object) -> None:
        if self.received is not None:
            return
        self.received = number
        if signal.SIGINT in self._before:
            signal.signal(signal.SIGINT, self._before.pop(signal.SIGINT))
        if self._message is not None:
            raise Stopped(number, self._message)
        if number == signal.SIGINT:  # print could be in the middle of another print
            os.write(2, f"{self.told}\n".encode())


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
    steps: Callable[[Settings], int]
    """From settings to steps."""
    defaults: Callable[[Settings], Settings] = lambda settings: {}
    """From settings to what they are where nothing is said. A folder begun before there was a word
    for a setting counts as having that. Where former settings stand too, with what every run has
    now, a folder that has this goes on."""


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


AS_USUAL = Options()


class _Attempt:
    """An attempt at a run: what its folder holds, what the call means there, and what is written.

    A checkpoint that cannot be written leaves the one before and training as they are, and is told.

    Args:
        path: The run's folder.
        settings: Those that are asked for.
        meaning: What they say.
        options: How the run is carried out.

    Attributes:
        settings: In the words of the run that the folder has; see ``folder.as_before``.
        shows_result: Whether the run is finished and the call asks for no more.
        run: The run in its open folder.
        events: Its event file, as it was when the run was saved.
        started: When it would have begun, by ``time.perf_counter``, had it never been stopped.
        due: When the next checkpoint is, by ``time.monotonic``.

    Raises:
        UsageError: The run there is damaged, of another program, or wants ``resume``.
    """

    def __init__(self, path: Path, settings: Settings, meaning: Meaning, options: Options) -> None:
        settings, keys = folder.plain_json(settings), meaning.length_keys
        earlier = folder.read_config(path, *keys)
        self.path, self.earlier, self.length_keys, self.options = path, earlier, keys, options
        self.checkpoint = path / folder.CHECKPOINT
        self.settings = folder.as_before(settings, earlier, meaning.defaults(settings))
        self.steps = meaning.steps(self.settings)
        self.ended = meaning.steps(earlier) if earlier else self.steps
        self.longer, finished = self.steps > self.ended, folder.is_finished(path)
        self.shows_result = finished and not (options.resume and self.longer)
        if refusal := self._refusal(finished):
            raise UsageError(f"run_dir {path} {refusal}")

    def _refusal(self, finished: bool) -> str:
        """Return why the call cannot be meant, or an empty string."""
        others = folder.differing(self.earlier, self.settings)
        if self.options.resume and finished and self.longer:
            if folder.read_result(self.path).get("status") != "finished":
                return "holds a run that failed; it cannot go on"
            if not self.checkpoint.is_file():
                return f"has no {folder.CHECKPOINT}, from which it could go on"
        elif finished and self.longer and others <= {*self.length_keys}:
            extends = f"--resume extends it to {self.steps}"
            return f"holds a finished run of {self.ended} steps; {extends}"
        elif not self.options.resume and not finished and not others and self.checkpoint.is_file():
            step = read_values(self.checkpoint, KIND)["step"]
            how = "--resume goes on from there; to begin anew, choose another folder"
            return f"holds a run that was stopped at step {step} of {self.steps}: {how}"
        return ""

    @contextmanager
    def opened(
        self, work: Member, files: tuple[str, ...], started: float, n_together: int
    ) -> Iterator[None]:
        """Open the folder for ``work``, which gets the state of the checkpoint if it goes on.

        Args:
            work: What is trained.
            files: Names that ``work.measure`` writes.
            started: When, by ``time.perf_counter``.
            n_together: Runs that are trained as one batch, this one among them.

        Raises:
            UsageError: The folder or its checkpoint cannot be used; nothing in it has changed.
        """
        self.work, self.files, self.n_together = work, files, n_together
        self.saved: dict[str, Any] = {}
        resume, may_change = self.options.resume, None
        settings = {**self.settings, **work.machine}
        goes_on = bool(resume and self.earlier and self.checkpoint.is_file())
        if goes_on:
            may_change = (*self.length_keys, *folder.WHERE) if self.steps >= self.ended else ()
            if self.longer or "extended_from" in self.earlier:
                with folder.reading(self.path / folder.CONFIG):
                    before = [*map(int, self.earlier.get("extended_from", []))]
                settings["extended_from"] = before + [self.ended] * self.longer
        with folder.open_run(self.path, settings, files=files, may_change=may_change) as self.run:
            if goes_on and (self.longer or not self.run.finished):
                self._restore()
            elif resume and not goes_on and not self.run.finished:
                begins = "nothing to resume, the run begins"
                print(f"run_dir {self.path} has no {folder.CHECKPOINT}: {begins}", file=sys.stderr)
            self.started = started - n_together * self.saved.get("wall_time", 0.0)
            yield

    def _restore(self) -> None:
        """Put the work where the checkpoint was taken."""
        self.saved = read_values(self.checkpoint, KIND)
        told = f"resumed at step {self.saved['step']} of {self.steps}"
        kinds = (ValueError, TypeError, RuntimeError, AttributeError, LookupError)
        with as_usage_error(f"checkpoint {self.checkpoint} does not fit", *kinds):
            clause = self.work.restore(self.saved.pop("work"))
        self.run.begin()
        folder.clear(self.path, self.files)
        if self.longer:
            told += f"; schedules are over all {self.steps} steps, not over {self.ended}"
        print(told + (f"; {clause}" if clause else ""), file=sys.stderr)

    def begin(self) -> None:
        """Open the event file, and let the time to the next checkpoint begin."""
        self.seconds = 60 * self.options.checkpoint_minutes
        self.due = time.monotonic() + self.seconds
        self.events = EventFile(self.path)
        if self.saved:
            self.events.cut(self.saved["events"])
            self.events.last.update(self.saved.get("last", {}))
        else:
            self.events.add_config(self.run.config)

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
            # its share, since it may go on in other company
            "wall_time": (time.perf_counter() - self.started) / self.n_together,
        }
        try:
            write_values(self.checkpoint, KIND, values)
        except OSError as error:
            print(f"no checkpoint at step {self.work.step}: {printable(error)}", file=sys.stderr)
            return False
        finally:
            cost = time.monotonic() - began
            self.due = began + max(self.seconds, RARELY * cost if self.seconds else 0.0)
        return True

    def end(self, broken: NonFiniteError | None) -> None:
        """Measure what was trained, or say what was not finite, and write the result behind it.

        Raises:
            UsageError: A file cannot be written.
        """
        run, work = self.run, self.work

        def reason(error: OSError) -> str:
            return f"{printable(error.strerror or error)}; the same command with --resume goes on"

        with as_usage_error(f"run_dir {run.path}", OSError, say=reason):
            try:
                if broken is not None:
                    raise broken
                result = {"status": "finished", **work.report(), **work.measure(run.path)}
            except NonFiniteError as error:
                result = {"status": "failed", "reason": printable(error, 500), **work.report()}
                with suppress(NonFiniteError):
                    self.save()
            cost = {"wall_time": time.perf_counter() - self.started, "memory_mib": peak_memory()}
            bad: list[str] = []
            result = _finite({**result, **cost, "diagnostics": self.events.diagnostics()}, bad)
            if bad and result["status"] == "finished":
                result |= {"status": "failed", "reason": bad[0]}
            scores = {tag: result[key] for tag, key in work.metrics.items() if key in result}
            self.events.add_hparams({**work.identity, **run.config}, scores, work.step)
            run.write_result(result, self.files)
        if not self.options.keep_checkpoint:
            self.checkpoint.unlink(missing_ok=True)


def _saved(attempts: Sequence[_Attempt]) -> bool:
    """Write checkpoints, one a run; return False where one failed.

    Raises:
        NonFiniteError: A run by itself is not finite; of several, those that are not are left out.
    """
    written = []
    for attempt in attempts:  # each, whatever the first did
        try:
            written.append(attempt.save())
        except NonFiniteError:
            if len(attempts) == 1:
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
    settings: Settings,
    build: Callable[[], Work],
    meaning: Meaning,
    files: tuple[str, ...],
    options: Options = AS_USUAL,
    progress: Progress = lambda fraction: None,
    accepted: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Do a run, go on with one, or return the result of one that is finished.

    Args:
        path: The run's folder.
        settings: Every value that decides what the run does. Where ``device`` is ``auto`` or
            ``threads`` None, nothing is said: a run that is there may have had any.
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
    run = ([path], [settings], lambda places: _Alone(build()))
    (result,) = carry_out_batch(*run, meaning, files, options, progress, accepted)
    return result


def carry_out_batch(
    paths: Sequence[Path],
    settings: Sequence[Settings],
    build: Callable[[Sequence[int]], Batch],
    meaning: Meaning,
    files: tuple[str, ...],
    options: Options = AS_USUAL,
    progress: Progress = lambda fraction: None,
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
    attempts = [_Attempt(*pair, meaning, options) for pair in zip(paths, settings, strict=True)]
    together: dict[int, list[int]] = {}
    for place, attempt in enumerate(attempts):
        if attempt.shows_result:
            with folder.open_run(attempt.path, attempt.settings, may_change=("extended_from",)):
                accepted()
            print(f"run_dir {attempt.path} has ended: nothing is trained", file=sys.stderr)
        else:
            step = 0
            if options.resume and len(paths) > 1 and attempt.checkpoint.is_file():
                step = read_values(attempt.checkpoint, KIND)["step"]
            together.setdefault(step, []).append(place)
    for done, places in enumerate(together.values()):

        def share(fraction: float, done: int = done) -> None:
            progress((done + fraction) / len(together))

        started = time.perf_counter()
        begin_peak_memory()
        batch = build(places)
        with Interrupts() as interrupts, ExitStack() as stack:
            begun = [attempts[place] for place in places]
            for attempt, work in zip(begun, batch.members, strict=True):
                stack.enter_context(attempt.opened(work, files, started, len(begun)))
            accepted()
            if not all(attempt.run.finished for attempt in begun):  # by another process meanwhile
                _train(begun, batch, interrupts, share)
    return [folder.read_result(path) for path in paths]


def _train(
    attempts: Sequence[_Attempt], batch: Batch, interrupts: Interrupts, progress: Progress
) -> None:
    """Train runs in their open folders to their results."""
    for attempt in attempts:
        attempt.begin()
    work, shown = attempts[0].work, 0.0

    def between() -> None:
        nonlocal shown
        if interrupts.received is not None:
            how = "--resume goes on from here" if _saved(attempts) else "not saved"
            where = f"stopped at step {work.step} of {work.total_steps}"
            raise Stopped(interrupts.received, f"{where}; {how}")
        now = time.monotonic()
        if now >= max(attempt.due for attempt in attempts):
            _saved(attempts)
        if now - shown >= PROGRESS_SECONDS:
            shown = now
            progress(min(1.0, work.step / work.total_steps))

    broken, how = None, "--resume measures again"
    try:
        batch.train([attempt.events for attempt in attempts], between)
        if not _saved(attempts):
            how = "the last update is not saved"
    except NonFiniteError as error:
        broken = error
    except Exception as error:
        if interrupts.received is None:
            raise
        # Ctrl-C reaches the processes that training waits for too, a compiler's say.
        told = f"stopped in the middle of an update: {first_line(error)}"
        saved = any(attempt.checkpoint.is_file() for attempt in attempts)
        how = "--resume goes on from the last checkpoint" if saved else "nothing is saved"
        raise Stopped(interrupts.received, f"{told}; {how}") from error
    with interrupts.at_once(f"stopped after the last step; {how}"):
        progress(1.0)
        for attempt in attempts:
            if not attempt.run.finished:
                attempt.end(broken)


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
