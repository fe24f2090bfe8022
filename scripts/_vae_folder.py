"""What is in a run's folder already, and how a new call of train_vae.py goes on from it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wnrl.errors import UsageError
from wnrl.runs import CONFIG, RESULT, Run, is_finished, open_run, plain_json, read_json, reopen_run
from wnrl.vae import VAEConfig
from wnrl.vae.checkpoint import CHECKPOINT, read_checkpoint
from wnrl.vae.construction import settings_of

if TYPE_CHECKING:
    from scripts.train_vae import Args

# What may be different in a run that goes on.
MAY_CHANGE = ("epochs", "n_steps", "device", "threads", "compile", "extended_from")
LENGTH = {"epochs", "n_steps"}


@dataclass(frozen=True)
class Folder:
    """A run's folder as a call finds it."""

    run: Run
    result: dict[str, Any] | None
    """Of a run that is finished."""
    state: dict[str, Any] | None
    """The checkpoint to go on from."""
    told: str = ""
    """What is to be said of it."""


@contextmanager
def opened(args: "Args", n_train: int) -> Iterator[Folder]:
    """The run's folder, which this process holds.

    Args:
        args: the flags.
        n_train: images in the training set.

    Raises:
        UsageError: the folder or its checkpoint cannot be used; nothing in it has changed.
    """
    settings, theirs = args.as_config(), _before(args)
    _check_intention(args, settings, theirs, n_train)
    steps = args.config().total_steps(n_train)
    extends = _extends(args, theirs, n_train)
    if args.resume and theirs and (args.folder / CHECKPOINT).exists():
        ended = VAEConfig.from_json(theirs).total_steps(n_train)
        earlier = [*theirs.get("extended_from", []), *([ended] if steps > ended else [])]
        if earlier:
            settings["extended_from"] = earlier
        with reopen_run(args.folder, settings, MAY_CHANGE if steps >= ended else ()) as run:
            if run.finished and not extends:
                yield Folder(run, run.result(), None)
                return
            state = read_checkpoint(args.folder)
            told = f"resumed at step {state['trainer']['step']} of {steps}"
            if steps > ended:
                told += f"; schedules are over all {steps} steps, no longer over {ended}"
            yield Folder(run, None, state, told)
        return
    with open_run(args.folder, settings) as run:
        yield Folder(run, run.result() if run.finished else None, None)


def _before(args: "Args") -> dict[str, Any]:
    return settings_of(args.folder, "run_dir") if (args.folder / CONFIG).is_file() else {}


def _extends(args: "Args", theirs: dict[str, Any], n_train: int) -> bool:
    """Whether ``args`` asks for more steps of a finished run.

    Raises:
        UsageError: it does, but there is nothing to go on from.
    """
    if not (args.resume and theirs and is_finished(args.folder)):
        return False
    if args.config().total_steps(n_train) <= VAEConfig.from_json(theirs).total_steps(n_train):
        return False
    if read_json(args.folder / RESULT).get("status") != "finished":
        raise UsageError(f"run_dir {args.folder} holds a run that failed; it cannot go on")
    if not (args.folder / CHECKPOINT).exists():
        raise UsageError(f"run_dir {args.folder} has no {CHECKPOINT}, from which it could go on")
    return True


def _check_intention(
    args: "Args", settings: dict[str, Any], theirs: dict[str, Any], n_train: int
) -> None:
    """Raises UsageError where what is in the folder wants ``--resume`` to be useful."""
    if args.resume or not theirs:
        return
    ours = plain_json(settings)
    differing = {key for key in theirs.keys() | ours.keys() if theirs.get(key) != ours.get(key)}
    steps = args.config().total_steps(n_train)
    if is_finished(args.folder):
        if differing and differing <= LENGTH:
            ended = VAEConfig.from_json(theirs).total_steps(n_train)
            if steps > ended:
                raise UsageError(
                    f"run_dir {args.folder} holds a finished run of {ended} steps; --resume "
                    f"extends it to {steps}"
                )
    elif not differing and (args.folder / CHECKPOINT).exists():
        step = read_checkpoint(args.folder)["trainer"]["step"]
        raise UsageError(
            f"run_dir {args.folder} holds a run that was stopped at step {step} of {steps}: "
            "--resume goes on from there; to begin anew, delete the folder"
        )


def tell(message: str) -> None:
    """Says something on stderr."""
    if message:
        print(message, file=sys.stderr)
