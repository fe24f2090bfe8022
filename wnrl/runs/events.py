"""The event file of a run, as TensorBoard reads it: one, cut and appended to where a run goes on.

A second file, as ``SummaryWriter`` begins one for every part of a run, is read in the order of the
clock, which may have been set back meanwhile.
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wnrl import tags
from wnrl.errors import printable
from wnrl.runs.files import write_bytes

EVENTS = "events.out.tfevents.*.wnrl"


def as_hparams(settings: Mapping[str, Any]) -> dict[str, bool | float | str]:
    """Return settings as the HParams tab can show them.

    One of several values, such as ``norm_kwargs``, becomes as many, named ``norm_kwargs.g_rate``;
    anything else but a number, a string or a bool becomes a string. Strings are as ``printable``
    has them: the name of a file may be no text.
    """
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        parts = value if isinstance(value, Mapping) else {"": value}
        flat |= {f"{name}.{part}" if part else name: v for part, v in parts.items()}
    return {k: v if isinstance(v, int | float) else printable(v, 1000) for k, v in flat.items()}


class EventFile:
    """A run's curves, pictures and texts.

    Records are whole or absent. Where the disk is full, or the file gone or not to be written any
    more, they are lost, which is said once, and the run goes on. Part of the interface of torch's
    ``SummaryWriter`` is here, so that this can stand in its place.

    Args:
        folder: The run's. What its event file holds stays there; without one, it is made. Of a link
            it has a copy.

    Attributes:
        last: The last value of each curve that was added.
    """

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from torch.utils.tensorboard import summary

        self._event, self._summary = Event, summary
        name = EVENTS.replace("*", f"{int(time.time()):010d}")
        self.path = min(folder.glob(EVENTS), default=folder / name)
        self.path.touch()
        if self.path.is_symlink() or self.path.stat().st_nlink > 1:  # nor that of a backup
            written = self.path.read_bytes()
            write_bytes(self.path, lambda file: file.write(written))
        self._told = False
        self.last: dict[str, float] = {}
        if not self.size:
            self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))

    @property
    def size(self) -> int:
        """Bytes that the file has; 0 where it is gone."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def cut(self, size: int) -> None:
        """Forget what was written behind the first ``size`` bytes."""
        if size < self.size:
            os.truncate(self.path, size)

    def add_scalar(self, tag: str, value: Any, step: int | None = None, **_: Any) -> None:
        """Write a point of a curve."""
        self.last[tag] = float(value)
        self.add(self._summary.scalar(tag, float(value)), step)

    def diagnostics(self) -> dict[str, float]:
        """Return the last values of ``tags.DIAGNOSTICS``, each the mean over layers."""
        values = {
            prefix: [v for tag, v in self.last.items() if f"{tag}/".startswith(f"{prefix}/")]
            for prefix in tags.DIAGNOSTICS
        }
        means = {tag: float(np.mean(of_layers)) for tag, of_layers in values.items() if of_layers}
        return {tag: mean for tag, mean in means.items() if np.isfinite(mean)}

    def add_text(self, tag: str, text: str, step: int | None = None) -> None:
        """Write a text in Markdown."""
        self.add(self._summary.text(tag, text), step)

    def add_image(self, tag: str, image: NDArray[Any], step: int | None = None) -> None:
        """Write a picture, ``(C, H, W)``; bytes, or floats from 0 to 1."""
        self.add(self._summary.image(tag, image, dataformats="CHW"), step)

    def add_config(self, config: Mapping[str, Any]) -> None:
        """Write all that a run was told as a table in the text tab."""
        rows = [f"| {name} | `{json.dumps(value)}` |" for name, value in config.items()]
        self.add_text(tags.CONFIG, "\n".join(["| setting | value |", "| --- | --- |", *rows]), 0)

    def add_hparams(
        self, hparams: Mapping[str, Any], metrics: Mapping[str, float], step: int
    ) -> None:
        """Write a run's line in TensorBoard's HParams tab.

        ``SummaryWriter.add_hparams`` makes a second run beside the first one, which then has no
        curves; this writes the same summaries into the file that has them. The tab makes columns of
        what all runs have, and sorts those that differ to the front, unless it is said which there
        are, as ``wnrl.study.tensorboard`` does.

        Args:
            hparams: Names and values; see ``as_hparams``.
            metrics: Some of ``tags.METRICS`` and their values, which are written as scalars: the
                tab takes them from there.
            step: Where those scalars stand on the x axis: the end of training.
        """
        _, *session = self._summary.hparams(as_hparams(hparams), {})
        for summary in session:
            self.add(summary)
        for tag, value in metrics.items():
            self.add_scalar(tag, value, step)

    def flush(self) -> None:
        """Do nothing: every record is in the file once it was added."""

    def close(self) -> None:
        """Do nothing: the file is open only while a record is written."""

    def add(self, summary: Any, step: int | None = None) -> None:
        """Write a summary, as ``torch.utils.tensorboard.summary`` makes it."""
        self._write(self._event(wall_time=time.time(), step=step, summary=summary))

    def _write(self, event: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        end = self.size
        try:
            with self.path.open("r+b") as file:  # which makes none where it is gone
                file.seek(end)
                RecordWriter(file).write(event.SerializeToString())
        except OSError as error:
            self.cut(end)  # half a record would hide all that follow
            if not self._told:
                self._told = True
                print(f"curves are lost from here on: {error}", file=sys.stderr)
