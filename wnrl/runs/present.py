"""A run folder as a call finds it, and what the call means there: begin, go on, extend, show."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wnrl.errors import UsageError, printable
from wnrl.runs import folder
from wnrl.runs.files import read_values
from wnrl.runs.work import Meaning, Member

KIND = "checkpoint of a run"
WHERE = ("device", "threads", "compile", "extended_from")
"""Settings that may differ in a run that goes on: where, and from what it was extended."""


class Present:
    """A folder as a call finds it, and what the call means there.

    Args:
        path: The folder.
        settings: Those that are asked for.
        meaning: What they say.
        resume: Whether to go on with the run that the folder has.

    Attributes:
        settings: In the words of the run that the folder has; see ``as_before``.
        earlier: The configuration of that run; empty where there is none.
        steps: Those that are asked for.
        ended: Steps that the run was to have.
        longer: Whether more are asked for.
        shows_result: Whether the run is finished and the call asks for no more.

    Raises:
        UsageError: The run there is damaged, of another program, or wants ``resume``.
    """

    def __init__(
        self, path: Path, settings: Mapping[str, Any], meaning: Meaning, resume: bool
    ) -> None:
        settings, earlier = folder.plain_json(settings), folder.read_config(path)
        keys = meaning.length_keys
        if earlier and not earlier.keys() >= set(keys):
            raise UsageError(
                f"run_dir {path} holds no run of this program: its {folder.CONFIG} has no "
                f"{' and no '.join(keys)}; choose another folder"
            )
        self.path, self.earlier, self.length_keys, self.resume = path, earlier, keys, resume
        self.checkpoint = path / folder.CHECKPOINT
        self.settings = folder.as_before(settings, earlier, meaning.defaults(settings))
        self.steps = meaning.steps(self.settings)
        self.ended = meaning.steps(earlier) if earlier else self.steps
        self.longer, finished = self.steps > self.ended, folder.is_finished(path)
        self.shows_result = finished and not (resume and self.longer)
        if refusal := self._refusal(finished):
            raise UsageError(f"run_dir {path} {refusal}")

    def _refusal(self, finished: bool) -> str:
        """Return why the call cannot be meant, or an empty string."""
        others = folder.differing(self.earlier, self.settings)
        if self.resume and finished and self.longer:
            if folder.read_result(self.path).get("status") != "finished":
                return "holds a run that failed; it cannot go on"
            if not self.checkpoint.is_file():
                return f"has no {folder.CHECKPOINT}, from which it could go on"
        elif finished and self.longer and others <= {*self.length_keys}:
            return (
                f"holds a finished run of {self.ended} steps; --resume extends it to {self.steps}"
            )
        elif not self.resume and not finished and not others and self.checkpoint.is_file():
            step = read_values(self.checkpoint, KIND)["step"]
            return (
                f"holds a run that was stopped at step {step} of {self.steps}: "
                "--resume goes on from there; to begin anew, choose another folder"
            )
        return ""

    @contextmanager
    def opened(
        self, settings: Mapping[str, Any], work: Member, files: tuple[str, ...]
    ) -> Iterator[tuple[folder.Run, dict[str, Any]]]:
        """Open the folder for ``work``, which gets the state of the checkpoint if it goes on.

        Yields:
            The run, and what its checkpoint holds; nothing where it begins.

        Raises:
            UsageError: The folder or its checkpoint cannot be used; nothing in it has changed.
        """
        may_change = None
        goes_on = bool(self.resume and self.earlier and self.checkpoint.is_file())
        if goes_on:
            may_change = (*self.length_keys, *WHERE) if self.steps >= self.ended else ()
            if self.longer or "extended_from" in self.earlier:
                before = self.earlier.get("extended_from", [])
                settings = {**settings, "extended_from": before + [self.ended] * self.longer}
        with folder.open_run(self.path, settings, files=files, may_change=may_change) as run:
            saved = {}
            if self.resume and not goes_on and not run.finished:
                begins = "nothing to resume, the run begins"
                print(f"run_dir {self.path} has no {folder.CHECKPOINT}: {begins}", file=sys.stderr)
            if goes_on and (self.longer or not run.finished):
                saved = read_values(self.checkpoint, KIND)
                told = f"resumed at step {saved['step']} of {self.steps}"
                try:
                    clause = work.restore(saved["work"])
                except (ValueError, TypeError, RuntimeError, AttributeError, LookupError) as error:
                    reason = printable(error) or type(error).__name__
                    what = f"checkpoint {self.checkpoint} is of another model"
                    raise UsageError(f"{what}: {reason}") from error
                run.begin()
                folder.clear(self.path, files)
                if self.longer:
                    told += f"; schedules are over all {self.steps} steps, not over {self.ended}"
                print(told + (f"; {clause}" if clause else ""), file=sys.stderr)
            yield run, saved
