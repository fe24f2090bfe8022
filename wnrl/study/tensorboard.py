"""What TensorBoard shows of a whole study: a chart a task, columns of HParams, verdicts."""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from wnrl import tags
from wnrl.runs import CONFIG, EventFile, read_or_nothing
from wnrl.runs.events import EVENTS, as_hparams
from wnrl.study.figures import mean_curve
from wnrl.study.plan import as_folder, grouped
from wnrl.study.summary import Row

FOLDER = "mean_of_runs"
BANDS = f"#custom_scalars&regexInput={FOLDER}"
"""The end of an address where curves have bands; of more than 40 runs none is shown unasked."""


def write_overview(root: Path, rows: Sequence[Row]) -> None:
    """Write event files into the folder of a study, in place of earlier ones.

    They hold, for each arm, a curve a task: the mean over runs with its interval, under names of
    their own, so that tasks do not share a chart. Tabs: Custom Scalars has the curves with their
    bands, HParams what was varied in front, Text the verdicts.

    Args:
        root: The folder of the study.
        rows: Its table.
    """
    from torch.utils.tensorboard import summary

    for old in (*root.glob(EVENTS), *(root / FOLDER).glob(f"*/{EVENTS}")):
        old.unlink()
    first = [row for row in rows if row.confidence is not None]
    layout: dict[str, Any] = {}
    for row in first:
        if (curve := mean_curve(row)) is None:
            continue
        folder = root / FOLDER / as_folder(row.name)
        folder.mkdir(parents=True, exist_ok=True)
        events = EventFile(folder)
        title = f"{row.task.title}, {row.task.metric.curve_label}"
        names = [prefix + title for prefix in (tags.STUDY_MEAN, tags.STUDY_LOW, tags.STUDY_HIGH)]
        layout[row.task.title] = ["Margin", names]
        for step, *values in zip(*curve, strict=True):
            for name, value in zip(names, values, strict=True):
                events.add_scalar(name, value, int(step))
    runs = [
        {"task": row.task.name, "algo": row.task.label, **read_or_nothing(root / folder / CONFIG)}
        for row in first
        for folder in row.runs.folders.values()
    ]
    varied = {name for row in rows for name, _ in row.point}
    varied |= {name for row in rows if row.choice for name in row.choice.grid}
    whole = EventFile(root)
    whole.add(columns(runs, varied))
    whole.add(summary.custom_scalars({"mean of runs": layout}))
    verdicts = [f"- {r.task.title}: {r.name} {r.verdict.sentence}" for r in first if r.verdict]
    whole.add_text(tags.VERDICTS, "\n".join(verdicts) or "none", 0)


def columns(runs: Sequence[Mapping[str, Any]], varied: Collection[str]) -> Any:
    """Return the columns of the HParams tab for all runs in the folders below, as a summary.

    ``tags.IDENTITY`` and what was varied come first; metrics are ``tags.METRICS``.

    Args:
        runs: What ``EventFile.add_hparams`` has of each.
        varied: Names of settings, or of options in one.
    """
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
    from torch.utils.tensorboard import summary

    values = grouped(pair for run in runs for pair in as_hparams(run).items())
    # As the tab does it itself: a column with values of several types is one of strings.
    one = {
        name: some[0] if len({float if type(v) is int else type(v) for v in some}) == 1 else ""
        for name, some in values.items()
    }
    made, *_ = summary.hparams(one, dict.fromkeys(tags.METRICS, 0.0))
    plugin = made.value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(plugin.content)
    for info in content.experiment.hparam_infos:
        info.differs = info.name.rpartition(".")[2] in {*tags.IDENTITY, *varied}
    plugin.content = content.SerializeToString()
    return made


def view(rows: Sequence[Row]) -> str:
    """Return the end of a TensorBoard address: a chart a task, and runs coloured by arm."""
    arms = "|".join(dict.fromkeys(re.escape(row.arm.name) for row in rows))
    query = {"tagFilter": f"^{tags.STUDY_MEAN}", "runColorGroup": f"regex:/({arms})(?:[/,]|$)"}
    return f"?{urlencode(query)}#timeseries"
