"""Resume checkpoints of a training, whose curves go back to the same moment."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wnrl.errors import UsageError
from wnrl.vae.files import read_state, write_state
from wnrl.vae.training import Trainer

CHECKPOINT = "checkpoint.zip"
FORMAT = 2
KEYS = ("format", "trainer", "extra", "events")
EVENTS = "events.out.tfevents.*"
RESULTS = ("model.pt", "samples.png", "per_image_nll.npy", "nll_*_K*_*.npz")
"""What belongs to the weights at the end of a run."""


def write_checkpoint(run_dir: Path, trainer: Trainer, extra: Mapping[str, Any]) -> None:
    """Writes the state of a training.

    Args:
        run_dir: the run's folder, whose event files are complete on disk.
        trainer: at a step where everything is finite.
        extra: anything else to remember: numbers, words, lists and dicts of them.

    Raises:
        OSError: it cannot be written; the checkpoint before is still there.
    """
    state = {
        "format": FORMAT,
        "trainer": trainer.state(),
        "extra": dict(extra),
        "events": {path.name: path.stat().st_size for path in run_dir.glob(EVENTS)},
    }
    write_state(run_dir / CHECKPOINT, state)


def read_checkpoint(run_dir: Path) -> dict[str, Any]:
    """What ``write_checkpoint`` wrote, for ``go_on`` and ``put_back``.

    Raises:
        UsageError: the file is damaged, or of another version.
    """
    path = run_dir / CHECKPOINT
    state = read_state(path, "checkpoint of a VAE", KEYS)
    if state["format"] != FORMAT:
        raise UsageError(f"checkpoint {path} has format {state['format']}, {FORMAT} is expected")
    return state


def go_on(trainer: Trainer, state: Mapping[str, Any]) -> None:
    """Puts a new trainer of the same run where the checkpoint's was.

    Raises:
        UsageError: the checkpoint is of another model.
    """
    try:
        trainer.restore(state["trainer"])
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UsageError(f"checkpoint is of another model: {reason}") from error


def put_back(run_dir: Path, state: Mapping[str, Any]) -> None:
    """Makes ``run_dir`` what it was at the checkpoint's moment; later results are deleted."""
    for pattern in RESULTS:
        for path in run_dir.glob(pattern):
            path.unlink()
    for events in run_dir.glob(EVENTS):
        if events.name not in state["events"]:
            events.unlink()
        elif events.stat().st_size > state["events"][events.name]:
            os.truncate(events, state["events"][events.name])
