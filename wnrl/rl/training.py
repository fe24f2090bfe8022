"""A training run around SB3's ``learn``: what is called in it, and NaN."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat

from wnrl.errors import NonFiniteError
from wnrl.runs import EventFile
from wnrl.sb3 import Diagnostics, StopAtNonFinite, check_finite

REFUSED = "to satisfy the constraint"  # of a ValueError of torch's distributions
Model = BaseAlgorithm
"""An agent as SB3 has it: what ``Agent.build`` gives."""


def learn(
    model: Model, total_timesteps: int, *callbacks: BaseCallback, resumed: bool = False
) -> None:
    """Train ``model``, with the lengths of weight-normalized layers in its logs.

    Args:
        model: The agent.
        total_timesteps: Environment steps of the whole run.
        *callbacks: Called in this order, after those of this function.
        resumed: Whether ``model`` has made some of these steps already.

    Raises:
        NonFiniteError: An observation, a reward, a loss, a parameter or the policy's distribution
            became NaN or infinite.
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
    """Say after how many steps something was not finite.

    torch's distributions refuse a NaN with a ValueError, before any loss is logged; the parameters
    of ``model`` may still be finite then, though too large to compute with.

    Raises:
        NonFiniteError: In the place of that ValueError, and of one that does not say the steps.
    """
    try:
        yield
    except (NonFiniteError, ValueError) as error:
        reason = str(error)
        if isinstance(error, ValueError):
            check_finite(model)
            if REFUSED not in reason:
                raise
            reason = f"torch.distributions: {reason.partition(' (Tensor')[0]}"
        if reason.startswith("not finite after"):
            raise
        raise NonFiniteError(f"not finite after {model.num_timesteps} steps: {reason}") from error


class BeforeRollouts(BaseCallback):
    """Calls a function before each rollout, where nothing is half done."""

    def __init__(self, function: Callable[[], None]) -> None:
        super().__init__()
        self.function = function

    def _on_rollout_start(self) -> None:
        self.function()

    def _on_step(self) -> bool:
        return True


class _ToEvents(TensorBoardOutputFormat):
    """SB3's output, into an event file that is there; SB3's own begins one."""

    def __init__(self, events: EventFile) -> None:
        self.writer = events  # type: ignore[assignment]  # which has what SB3 calls of it
        self._is_closed = False


def log_to(model: Model, events: EventFile) -> None:
    """Send what ``model`` logs to ``events``, and nowhere else."""
    model.set_logger(Logger(None, [_ToEvents(events)]))
