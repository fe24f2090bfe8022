"""A training run around SB3's ``learn``: NaN, progress, what is saved and what is logged."""

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch.distributions
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat

from wnrl import tags
from wnrl.errors import NonFiniteError
from wnrl.rl.checkpoint import restore_late, write_checkpoint
from wnrl.runs.interrupts import Interrupts, Stopped
from wnrl.sb3 import Diagnostics, StopAtNonFinite, check_finite

Model = BaseAlgorithm
"""An agent as SB3 has it: what ``Agent.build`` gives."""
Progress = Callable[[float], None]


def learn(
    model: Model, total_timesteps: int, *callbacks: BaseCallback, resumed: bool = False
) -> None:
    """Trains ``model``, with the lengths of weight-normalized layers in its logs.

    Args:
        model: the agent.
        total_timesteps: environment steps of the whole run.
        *callbacks: called in this order, after those of this function.
        resumed: whether ``model`` has made some of these steps already.

    Raises:
        NonFiniteError: a loss, a parameter or the policy's distribution became NaN or infinite.
    """
    steps = total_timesteps - model.num_timesteps if resumed else total_timesteps
    with telling_non_finite(model):
        model.learn(
            max(0, steps),
            [StopAtNonFinite(), Diagnostics(), *callbacks],
            reset_num_timesteps=not resumed,
        )


@contextmanager
def telling_non_finite(model: Model) -> Iterator[None]:
    """Turns what torch's distributions say of a NaN into NonFiniteError.

    They refuse it with a ValueError, before any loss is logged; the parameters of ``model`` may
    still be finite then, though too large to compute with.
    """
    try:
        yield
    except ValueError as error:
        check_finite(model)
        if not _is_from_distributions(error):
            raise
        refused = str(error).partition("\n")[0].partition(" (Tensor")[0]
        raise NonFiniteError(
            f"not finite after {model.num_timesteps} steps: torch.distributions: {refused}"
        ) from error


def _is_from_distributions(error: Exception) -> bool:
    """Whether torch.distributions raised ``error`` itself."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    folder = Path(torch.distributions.__file__).parent
    return trace is not None and folder in Path(trace.tb_frame.f_code.co_filename).parents


REPORT_SECONDS = 0.2


class ReportProgress(BaseCallback):
    """Tells how far training is, as a fraction of ``total_timesteps``, every REPORT_SECONDS."""

    def __init__(self, progress: Progress, total_timesteps: int) -> None:
        super().__init__()
        self.progress, self.total_timesteps = progress, total_timesteps
        self.last = 0.0

    def _on_step(self) -> bool:
        now = time.monotonic()
        if now - self.last >= REPORT_SECONDS:
            self.last = now
            self.progress(min(1.0, self.num_timesteps / self.total_timesteps))
        return True

    def _on_training_end(self) -> None:
        self.progress(1.0)


class SaveCheckpoints(BaseCallback):
    """Writes resume checkpoints at intervals, at the end, and when training is interrupted.

    The interval is made longer where a checkpoint takes long to write (a large replay buffer), so
    that no more than a twentieth of the time goes there. A checkpoint that cannot be written
    leaves the one before and training as they are, and is told on stderr. A network that is not
    finite is not saved: NonFiniteError.

    Args:
        run_dir: the run's folder.
        minutes: between checkpoints; 0 writes one before each rollout.
        extra: gives what else to remember.
        interrupts: entered while training; after a signal training ends with ``Stopped``.
        at_end: whether to write one after the last update, from which the run can be extended.
        late: of the checkpoint from which the run goes on.

    Attributes:
        seconds: time spent here.
    """

    def __init__(
        self,
        run_dir: Path,
        minutes: float,
        extra: Callable[[], dict[str, Any]],
        interrupts: Interrupts,
        *,
        at_end: bool = True,
        late: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.run_dir, self.minutes, self.extra = run_dir, minutes, extra
        self.interrupts, self.at_end, self.late = interrupts, at_end, late
        self.seconds, self.due = 0.0, math.inf

    def _on_training_start(self) -> None:
        self.due = time.monotonic() + 60 * self.minutes

    def _restore_late(self) -> None:
        if self.late is not None:
            restore_late(self.model, self.late)
            self.late = None

    def _on_rollout_start(self) -> None:
        self._restore_late()
        if self.interrupts.received is not None:
            saved = self._save(in_rollout=True)
            where = f"stopped at step {self.num_timesteps} of {self.model._total_timesteps}"
            how = "--resume goes on from here" if saved else "not saved"
            raise Stopped(self.interrupts.received, f"{where}; {how}")
        if time.monotonic() >= self.due:
            self._save(in_rollout=True)

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self._restore_late()  # where no step was left
        if self.at_end:
            self._save(in_rollout=False)

    def _save(self, in_rollout: bool) -> bool:
        start = time.monotonic()
        check_finite(self.model)
        try:
            write_checkpoint(self.model, self.run_dir, self.extra(), in_rollout=in_rollout)
        except OSError as error:
            print(f"no checkpoint at step {self.num_timesteps}: {error}", file=sys.stderr)
            return False
        finally:
            cost = time.monotonic() - start
            self.seconds += cost
            self.due = start + max(60 * self.minutes, 20 * cost if self.minutes else 0.0)
        return True


def save(model: Model, run_dir: Path, prefix: str = "") -> None:
    """Writes ``model.zip`` and, where observations are scaled, ``vecnormalize.pkl``.

    Args:
        model: the agent.
        run_dir: the run's folder.
        prefix: stands before the names of the files.
    """
    scratch = run_dir / "model.tmp.zip"
    model.save(scratch)
    scratch.replace(run_dir / f"{prefix}model.zip")
    normalizer = model.get_vec_normalize_env()
    if normalizer is not None:
        scratch = run_dir / "vecnormalize.pkl.tmp"
        normalizer.save(str(scratch))
        scratch.replace(run_dir / f"{prefix}vecnormalize.pkl")


def log_to(model: Model, run_dir: Path) -> None:
    """Sends what ``model`` logs to an event file in ``run_dir`` itself, and nowhere else."""
    model.set_logger(Logger(str(run_dir), [TensorBoardOutputFormat(str(run_dir))]))


def end_logs(model: Model, hparams: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
    """Writes the row of TensorBoard's HParams tab, and closes what ``log_to`` opened."""
    events = cast(TensorBoardOutputFormat, model.logger.output_formats[0])
    tags.write_hparams(events.writer, hparams, metrics, model.num_timesteps)
    model.logger.close()
