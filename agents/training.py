"""A training run around SB3's ``learn``: NaN, progress, what is saved and what is logged."""

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
from wnrl.sb3 import LogNorms, StopAtNonFinite, check_finite

Model = BaseAlgorithm
"""An agent as SB3 has it: what ``Agent.build`` gives."""
Progress = Callable[[float], None]


def learn(model: Model, total_timesteps: int, *callbacks: BaseCallback) -> None:
    """Trains ``model``, with the lengths of weight-normalized layers in its logs.

    Raises:
        NonFiniteError: a loss, a parameter or the policy's distribution became NaN or infinite.
    """
    with telling_non_finite(model):
        model.learn(total_timesteps, [StopAtNonFinite(), *callbacks, LogNorms()])


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


class ReportProgress(BaseCallback):
    """Tells how far training is, as a fraction of ``total_timesteps``, five times a second."""

    def __init__(self, progress: Progress, total_timesteps: int) -> None:
        super().__init__()
        self.progress, self.total_timesteps = progress, total_timesteps
        self.last = 0.0

    def _on_step(self) -> bool:
        now = time.monotonic()
        if now - self.last > 0.2:
            self.last = now
            self.progress(min(1.0, self.num_timesteps / self.total_timesteps))
        return True

    def _on_training_end(self) -> None:
        self.progress(1.0)


def save(model: Model, run_dir: Path) -> None:
    """Writes ``model.zip`` and, where observations are scaled, ``vecnormalize.pkl``."""
    scratch = run_dir / "model.tmp.zip"
    model.save(scratch)
    scratch.replace(run_dir / "model.zip")
    normalizer = model.get_vec_normalize_env()
    if normalizer is not None:
        scratch = run_dir / "vecnormalize.pkl.tmp"
        normalizer.save(str(scratch))
        scratch.replace(run_dir / "vecnormalize.pkl")


def log_to(model: Model, run_dir: Path) -> None:
    """Sends what ``model`` logs to an event file in ``run_dir`` itself, and nowhere else."""
    model.set_logger(Logger(str(run_dir), [TensorBoardOutputFormat(str(run_dir))]))


def end_logs(model: Model, hparams: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
    """Writes the row of TensorBoard's HParams tab, and closes what ``log_to`` opened."""
    events = cast(TensorBoardOutputFormat, model.logger.output_formats[0])
    tags.write_hparams(events.writer, hparams, metrics, model.num_timesteps)
    model.logger.close()
