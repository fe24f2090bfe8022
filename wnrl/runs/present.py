"""A run folder as a call finds it, and what the call means there: begin, go on, extend, show."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wnrl.errors import UsageError, printable
from wnrl.runs.files import read_values
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
from wnrl.runs.work import Meaning, Member

KIND = "checkpoint of a run"
WHERE = ("device", "threads", "compile", "extended_from")
"""Settings that may differ in a run that goes on: where, and from what it was extended."""


@dataclass(frozen=True)
class Present:
    """A folder as a call finds it, and what the call means there."""

    path: Path
    settings: Mapping[str, Any]
    """As they were asked for, in the words of the run that the folder has; see ``as_before``."""
    earlier: Mapping[str, Any]
    """The configuration of the run that the folder has; empty where there is none."""
    length_keys: tuple[str, ...]
    steps: int
    ended: int
    """Steps that are asked for, and steps that the run was to have."""
    resume: bool

    @classmethod
    def of(
        cls, path: Path, settings: Mapping[str, Any], meaning: Meaning, resume: bool
    ) -> "Present":
        """Look into ``path``.

        Raises:
            UsageError: The run there is damaged, of another program, or wants ``resume``.
        """
        settings, earlier = plain_json(settings), read_config(path)
        if earlier and not earlier.keys() >= set(meaning.length_keys):
            raise UsageError(
                f"run_dir {path} holds no run of this program: its {CONFIG} has no "
                f"{' and no '.join(meaning.length_keys)}; choose another folder"
            )
        settings = as_before(settings, earlier, meaning.defaults(settings))
        steps = meaning.steps(settings)
        ended = meaning.steps(earlier) if earlier else steps
        present = cls(path, settings, earlier, meaning.length_keys, steps, ended, resume)
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
        self, settings: Mapping[str, Any], work: Member, files: tuple[str, ...]
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
