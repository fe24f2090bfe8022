"""What is in a run's folder already, and how a new call of train_agent.py goes on from it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from wnrl.errors import UsageError
from wnrl.rl.checkpoint import CHECKPOINT, Checkpoint, read_checkpoint, saved_steps
from wnrl.rl.training import Model
from wnrl.runs import CONFIG, RESULT, Run, is_finished, open_run, plain_json, read_json, reopen_run

if TYPE_CHECKING:
    from scripts.train_agent import Args

# What may be different in a run that goes on.
MAY_CHANGE = ("total_timesteps", "device", "threads", "compile", "extended_from")


def before(args: "Args[Any]") -> dict[str, Any]:
    """The configuration of the run that the folder has; empty where there is none.

    Raises:
        UsageError: it is damaged, or not of an agent.
    """
    path = args.folder / CONFIG
    config = read_json(path) if path.is_file() else {}
    if config and "algo" not in config:
        raise UsageError(
            f"run_dir {args.folder} holds a run of another program: its {CONFIG} has no algo"
        )
    return config


def extends(args: "Args[Any]") -> bool:
    """Whether ``args`` asks for more steps of a finished run.

    Raises:
        UsageError: it does, but there is nothing to go on from.
    """
    if not args.resume or args.config.total_timesteps <= before(args).get("total_timesteps", 0):
        return False
    if read_json(args.folder / RESULT).get("status") != "finished":
        raise UsageError(f"run_dir {args.folder} holds a run that failed; it cannot go on")
    if not (args.folder / CHECKPOINT).exists():
        raise UsageError(f"run_dir {args.folder} has no {CHECKPOINT}, from which it could go on")
    return True


def check_intention(args: "Args[Any]") -> None:
    """Raises UsageError where what is in the folder wants ``--resume`` to be useful."""
    theirs, steps = before(args), args.config.total_timesteps
    if args.resume or not theirs:
        return
    ours = plain_json(args.settled_as(theirs).as_config())
    differing = {key for key in theirs.keys() | ours.keys() if theirs.get(key) != ours.get(key)}
    if is_finished(args.folder):
        if differing == {"total_timesteps"} and steps > theirs["total_timesteps"]:
            raise UsageError(
                f"run_dir {args.folder} holds a finished run of {theirs['total_timesteps']} "
                f"steps; --resume extends it to {steps}"
            )
    elif not differing and (args.folder / CHECKPOINT).exists():
        raise UsageError(
            f"run_dir {args.folder} holds a run that was stopped at step "
            f"{saved_steps(args.folder / CHECKPOINT)} of {steps}: --resume goes on from there; "
            "to begin anew, delete the folder"
        )


@contextmanager
def opened(args: "Args[Any]", model: Model) -> Iterator[tuple[Run, Checkpoint | None]]:
    """The run's folder, and the checkpoint in it whose state ``model`` has got.

    Raises:
        UsageError: the folder or its checkpoint cannot be used; nothing in it has changed.
    """
    settings, theirs, path = args.as_config(), before(args), args.folder / CHECKPOINT
    if not (args.resume and theirs and path.exists()):
        with open_run(args.folder, settings) as run:
            if args.resume and not run.finished:
                begins = "nothing to resume, the run begins"
                print(f"run_dir {args.folder} has no {CHECKPOINT}: {begins}", file=sys.stderr)
            yield run, None
        return
    steps, ended = args.config.total_timesteps, theirs.get("total_timesteps", 0)
    extended = [*theirs.get("extended_from", []), *([ended] if steps > ended else [])]
    if extended:
        settings["extended_from"] = extended
    may_change = MAY_CHANGE if steps >= ended else ()
    with reopen_run(args.folder, settings, may_change) as run:
        checkpoint = read_checkpoint(model, path)
        run.begin()
        checkpoint.put_back(run.path)
        told = [f"resumed at step {model.num_timesteps} of {steps}"]
        if steps > ended:
            told.append(f"schedules are lines over all {steps} steps, no longer over {ended}")
        if not checkpoint.episodes_go_on:
            told.append("the environments could not be saved, so that episodes begin anew")
        print("; ".join(told), file=sys.stderr)
        yield run, checkpoint
